"""`python -m reproduce` is the console command `reproduce`, wherever the package is only a folder."""

from reproduce.cli import main

main()
