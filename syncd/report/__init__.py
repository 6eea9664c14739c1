"""Documents for people: `status`, `why` and `doctor`, shared by commands, socket and page."""
