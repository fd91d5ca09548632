"""Run the command line as ``python -m gradhorizon``."""

from gradhorizon.cli import main

main()
