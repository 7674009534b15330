"""Which settings are chosen, on figures made up for it."""

import math

import pytest

from titans_dna.config import TitansConfig
from titans_dna.planning.calibrate import Calibration, Coefficients
from titans_dna.planning.estimate import MARKOV, SETTLED, Settings, candidates, estimate, modes_of, search
from titans_dna.planning.options import PlanFlags, PlanOptions

M = 10**6
KNOWN = Calibration(
    {
        "whole": Coefficients(500 * M, 40_000, 0, 1e-3),
        "pieces": Coefficients(500 * M, 50_000, 0, 2e-3),
        "again": Coefficients(500 * M, 10_000, 0, 3e-3),
        "whole-again": Coefficients(500 * M, 9_000, 0, 2e-3),
        "read": Coefficients(600 * M, 5_000, 0, 1e-4),
    },
    state=1 * M,
    growth=100.0,
    in_heap=1000.0,
    process=500.0 * M,
    parameters=1000,
    source="made up",
    seconds=0.0,
    device="cpu",
)


def options(preset="small", variant="mac", **flags):
    return PlanOptions(PlanFlags(preset=preset, **flags), TitansConfig.preset(preset, variant=variant))


def chosen(memory, **flags):
    found = search(options(**flags), KNOWN, memory)
    return found.settings, found.fits


def test_the_whole_window_where_it_fits():
    assert chosen(10_000 * M, length="100k") == (Settings(100_000, 0, 1, 1, False), True)


def test_else_the_largest_power_of_two_below_ninety_hundredths():
    # 16,384 tokens take 0.5 + 0.82 GB and the states; 32,768 take 1.64 GB more than the process.
    settings, fits = chosen(2000 * M, length="1Mi")
    assert (settings.piece, settings.again, fits) == (16384, False, True)
    expected = estimate(KNOWN, settings)
    assert expected.peak <= 1800 * M
    assert estimate(KNOWN, settings._replace(piece=2 * settings.piece)).peak > 1800 * M


def test_checkpointing_only_where_nothing_fits_without():
    settings, fits = chosen(1310 * M, length="100k", piece="8192")
    assert (settings.again, settings.batch_size, fits) == (False, 1, True)
    settings, fits = chosen(1310 * M, length="100k", piece="16384")
    assert (settings.again, fits) == (True, True)
    assert chosen(1310 * M, length="100k", piece="16384", activation_checkpointing="no")[1] is False


def test_a_batch_that_does_not_fit_is_accumulated():
    settings, fits = chosen(2000 * M, length="20k", batch_size=8, piece="20k")
    assert (settings.batch_size, settings.accumulate, fits) == (1, 8, True)
    settings, fits = chosen(4000 * M, length="20k", batch_size=6, piece="20k")
    assert settings.batch_size * settings.accumulate == 6
    assert (settings.batch_size, fits) == (3, True)


def test_a_step_has_the_bases_of_a_step_of_pretrain_as_it_comes():
    assert [options(length=n).windows for n in ("1k", "4096", "8192", "1M")] == [5, 1, 1, 1]


def test_nothing_fits():
    settings, fits = chosen(600 * M, length="1M")
    assert not fits
    assert estimate(KNOWN, settings).peak == min(estimate(KNOWN, one).peak for one in candidates(options(length="1M")))


@pytest.mark.parametrize(("variant", "least"), [("lmm", 64), ("mac", 128), ("mag", 128)])
def test_no_piece_below_chunk_or_segment(variant, least):
    pieces = [one.piece for one in candidates(options(variant=variant, length="1M")) if one.piece]
    assert min(pieces) == least
    assert max(pieces) == 2**19


def test_parts_sum_up_and_the_markov_models_count_at_the_end():
    found = estimate(KNOWN, Settings(2**20, 1024, 2, 3, False))
    assert found.states == 2 * 1024 * KNOWN.state + 100 * 1000 * SETTLED
    assert math.isclose(found.training, found.process + found.parameters + found.activations + found.states + found.ids)
    assert found.report >= KNOWN.process + MARKOV
    assert found.peak == max(found.training, found.report)
    assert math.isclose(found.seconds_per_step, 3 * 2 * 2**20 * 2e-3)


def test_reading_keeps_one_state_and_no_moments():
    found = search(options(length="1M", work="read", batch_size=4), KNOWN, 1100 * M)
    assert (found.settings.at_once, found.settings.batch_size, found.fits) == (4096, 4, True)
    assert found.estimate.states == 4 * KNOWN.state
    assert found.estimate.peak == pytest.approx(600 * M + 4 * 4096 * (5000 + 8) + 4 * M)
    assert modes_of(options(length="1M", work="read"), 1000 * M) == ["read"]


def test_only_what_may_be_chosen_is_calibrated():
    assert modes_of(options(length="64k", piece="4096", activation_checkpointing="no"), 1e12) == ["pieces"]
    assert modes_of(options(length="64k", piece="0"), 1e12) == ["whole", "whole-again"]
    assert modes_of(options(length="4096", piece="1M", activation_checkpointing="no"), 1e12) == ["whole"]


def test_what_needs_far_too_much_is_not_calibrated():
    asked = options(length="10M", activation_checkpointing="no")
    assert modes_of(asked, 1e13) == ["whole", "pieces"]
    assert modes_of(asked, 16e9) == ["pieces"]
    assert search(asked, KNOWN._replace(modes={"pieces": KNOWN.modes["pieces"]}), 16e9).settings.mode == "pieces"
