"""The command line: `gradhorizon demo | diagnose | figures | doctor`.

Nothing heavy is imported before a subcommand runs, so that `--help` answers at once; and the
number of BLAS threads is set before anything that loads BLAS.
"""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Annotated

import tyro

BAD_INPUT, FAILED_POINTS, INTERRUPTED = 2, 3, 130


@dataclasses.dataclass(frozen=True)
class Demo:
    """Diagnose five recurrent networks on real sequences, trained on nothing (about 20 s)."""

    output: Path = Path("gradhorizon-demo")
    """Folder for figures and summary.json; made if missing."""
    quiet: bool = False
    """Show no progress bar."""

    def run(self) -> int:
        """Run the demonstration."""
        from gradhorizon.cli.demo import run_demo

        return run_demo(self.output, quiet=self.quiet)


@dataclasses.dataclass(frozen=True)
class Diagnose:
    """Diagnose your own network. The named Python file is executed.

    NAME is a `gradhorizon.Cell`; a tuple (step, params, h0) or (step, params, h0, xs); a cell of
    Flax, Equinox or Haiku, with its parameters as (cell, variables) or in the file's `variables`
    or `params`; or a function without arguments that returns one of these.
    """

    target: tyro.conf.Positional[str]
    """FILE.py:NAME, the network."""
    inputs: Path | None = None
    """An .npz file with the inputs, leading axis time: the array `xs`, or the only one."""
    length: int | None = None
    """Number of steps of a network without inputs."""
    lag: int | None = None
    """The lag in steps that the verdict speaks about; the sequence's length by default."""
    threshold: float = 1e-3
    """Below this share of its size at lag 0 the gradient counts as gone."""
    html: Path | None = None
    """Write a self-contained page here."""
    json: Path | None = None
    """Write all numbers here."""
    x64: bool = True
    """Compute in float64 (--no-x64: float32)."""

    def run(self) -> int:
        """Load the network, diagnose it, print the verdict."""
        from gradhorizon.cli.diagnose import run_diagnose

        return run_diagnose(self)


@dataclasses.dataclass(frozen=True)
class Figures:
    """Recompute the figures of the gallery and check their numbers."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Which studies; see --list."""
    list: bool = False
    """List the studies and stop."""
    all: bool = False
    """All studies; after an interruption the same command goes on with those left."""
    small: bool = False
    """Small settings: seconds, the same checks."""
    output: Path = Path("figures")
    """Folder for <study>.png, .pdf and .json."""
    quiet: bool = False
    """Show no progress bar."""

    def run(self) -> int:
        """Compute, check, draw."""
        from gradhorizon.cli.figures import run_figures

        return run_figures(self)


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Show versions, devices and threads, and test the factorizations on this device."""

    def run(self) -> int:
        """Inspect and test."""
        from gradhorizon.cli.doctor import run_doctor

        return run_doctor()


Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Diagnose, tyro.conf.subcommand("diagnose")]
    | Annotated[Figures, tyro.conf.subcommand("figures")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, run the subcommand and exit with its code.

    Parameters
    ----------
    arguments
        The words after the program's name; those of the process if None.
    """
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    command = tyro.cli(
        Command,  # pyright: ignore[reportArgumentType]
        prog="gradhorizon",
        description="How far back a recurrent network's gradient reaches, why, and what would "
        "change it.",
        args=arguments,
    )
    try:
        code = command.run()
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted. Run the same command again.\n")
        code = INTERRUPTED
    except (ValueError, TypeError, OSError, MemoryError) as error:
        if not (str(error).startswith("`") or isinstance(error, OSError)):
            raise  # not one of our worded errors: the traceback is what helps
        sys.stderr.write(f"gradhorizon: {error}\n")
        code = BAD_INPUT
    sys.exit(code)
