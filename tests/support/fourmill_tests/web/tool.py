"""In place of img2dataset, which tests do not install: the same files, by urllib and through the same proxies."""

from __future__ import annotations

import io
import sys
import tarfile
import urllib.request
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def main() -> None:
    options = dict(one.removeprefix("--").split("=", 1) for one in sys.argv[1:])
    if options["user_agent_token"].startswith('"broken'):
        sys.exit("Traceback: no module named webdataset")
    out = Path(options["output_folder"])
    out.mkdir()
    rows = []
    with tarfile.open(out / "00000.tar", "w") as tar:
        for i, url in enumerate(pq.read_table(options["url_list"]).column("url").to_pylist()):
            key, said = f"00000{i:04d}", None
            try:
                with urllib.request.urlopen(url, timeout=float(options["timeout"])) as response:
                    data = response.read()
                info = tarfile.TarInfo(f"{key}.jpg")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            except Exception as error:
                said = str(error)
            rows.append({"key": key, "status": "failed_to_download" if said else "success", "error_message": said})
    pq.write_table(pa.Table.from_pylist(rows[::-1]), out / "00000.parquet")


if __name__ == "__main__":
    main()
