"""titans-dna: Titans models on DNA."""
