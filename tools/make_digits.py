"""Make src/gradhorizon/data/digits.npz from scikit-learn's copy of the UCI digits.

Run once, with the `docs` extra installed: ``python tools/make_digits.py``. The bytes of the
file do not depend on when or where it is made.
"""

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

TARGET = Path(__file__).parents[1] / "src" / "gradhorizon" / "data" / "digits.npz"


def main() -> None:
    """Write the images (1797, 8, 8) and the labels (1797,) as uint8."""
    digits = load_digits()
    arrays = {
        "images": digits.images.astype(np.uint8),
        "labels": digits.target.astype(np.uint8),
    }
    assert np.array_equal(arrays["images"], digits.images)
    with zipfile.ZipFile(TARGET, "w") as archive:
        for name, array in arrays.items():
            stream = io.BytesIO()
            np.lib.format.write_array(stream, np.ascontiguousarray(array), version=(1, 0))
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, stream.getvalue(), compresslevel=9)
    sys.stdout.write(f"wrote {TARGET.name}: {TARGET.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
