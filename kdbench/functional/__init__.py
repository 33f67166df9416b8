"""Mathematics that several objectives share."""
