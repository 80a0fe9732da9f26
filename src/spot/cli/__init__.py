"""The command line: commands, arguments, what they print."""
