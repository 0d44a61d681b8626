"""Other people's logs, read as a stranger reads them: nothing is believed before it leads to a signed root."""
