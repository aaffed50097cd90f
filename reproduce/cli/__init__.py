"""The command line: commands, options, and how a command begins and ends."""
