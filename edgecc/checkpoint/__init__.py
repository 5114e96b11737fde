"""A generation as a signed folder: written, verified, chunked, pulled."""
