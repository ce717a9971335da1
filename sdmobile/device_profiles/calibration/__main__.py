"""Fits the Adreno 740's parameters again.

python -m sdmobile.device_profiles.calibration [--write] [--page docs/latency-model.md]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sdmobile.device_profiles.calibration.adreno_fit import adreno_fit
from sdmobile.device_profiles.calibration.profile_values import write_page, write_profile
from sdmobile.device_profiles.calibration.tables import sections


def main() -> None:
    """Prints the tables of the fit; writes them where asked."""
    parser = argparse.ArgumentParser(description="Fits the Adreno 740's latency parameters to the published times.")
    parser.add_argument("--write", action="store_true", help="write the values into galaxy-s23-ultra.toml")
    parser.add_argument("--page", type=Path, help="write the tables into this page, between its marks")
    arguments = parser.parse_args()
    result = adreno_fit()
    found = sections(result)
    print("\n\n".join(f"## {name}\n\n{content}" for name, content in found.items()))
    if arguments.write:
        write_profile(result)
        print("wrote galaxy-s23-ultra.toml", file=sys.stderr)
    if arguments.page is not None:
        write_page(found, arguments.page)
        print(f"wrote {arguments.page}", file=sys.stderr)


if __name__ == "__main__":
    main()
