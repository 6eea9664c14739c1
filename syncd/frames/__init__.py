"""Downloading the frames of a video into a directory, under names of our own."""
