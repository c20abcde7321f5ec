"""Programs that make what the package ships; run from the folder of the sources."""
