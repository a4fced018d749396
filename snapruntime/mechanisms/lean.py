"""What CRIU would do again for each copy and need not: taken out of the images once, after the dump.

Like mapped memory (`snapruntime.mechanisms.mapped`), this changes what stands in the images, not CRIU.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

#: Watches name the file system they are on, which CRIU looks up among the mounts it knows.
_WATCHES = ("INOTIFY", "FANOTIFY")


def forget_build_ids(files: dict[str, Any]) -> None:
    """Let CRIU compare the size of a mapped library only, not its build-ID too, which it reads from each file.

    Where CRIU found no build-ID at the checkpoint it asks for none (criu/files-reg.c, validate_with_build_id). Whoever
    restores from such images must look itself whether a library is still the one that was mapped.
    """
    for entry in files["entries"]:
        entry.get("reg", {}).pop("build_id", None)


def fold_mounts(mounts: dict[str, Any], files: dict[str, Any], kept: Collection[str]) -> bool:
    """Let the mounts below the root come with the root, in one recursive bind, in place of one by one.

    CRIU binds the root recursively in its older way of restoring mounts (`mntns_compat_mode`; criu/mount.c,
    do_mount_one). Mounts that it does not know of then come along; files on them are found from the root, since their
    names are whole paths.

    Args:
        mounts: the image of the mount points; is changed.
        files: the image of open and mapped files; is changed.
        kept: the mount points that are another mount in each copy.

    Returns:
        False where nothing was changed: it is not known to be safe.
    """
    (root,) = (entry for entry in mounts["entries"] if entry["mountpoint"] == "/")
    if any(entry["type"] in _WATCHES for entry in files["entries"]):
        return False
    folded = {
        entry["mnt_id"] for entry in mounts["entries"] if "ext_key" in entry and entry["mountpoint"] not in kept
    } - {root["mnt_id"]}
    if any(entry["parent_mnt_id"] in folded for entry in mounts["entries"] if entry["mnt_id"] not in folded):
        return False
    mounts["entries"] = [entry for entry in mounts["entries"] if entry["mnt_id"] not in folded]
    for entry in files["entries"]:
        for kind in ("reg", "usk"):
            if entry.get(kind, {}).get("mnt_id") in folded:
                entry[kind]["mnt_id"] = root["mnt_id"]
    return True
