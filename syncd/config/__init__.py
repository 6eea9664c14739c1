"""Configuration: settings with their bounds, loading and merging, the key, file locations."""
