"""What to run: sweep files, their expansion into trials, and the identity of a trial."""
