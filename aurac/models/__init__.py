"""Base models: found by name, loaded, placed on a device."""
