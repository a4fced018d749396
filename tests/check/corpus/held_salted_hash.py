"""A cache of password hashes with one salt per process."""
# file: SR020

import functools
import hashlib
import os


class Hasher:
    salt = os.urandom(16)  #! SR003

    @functools.lru_cache(maxsize=128)  # noqa: B019
    def digest(self, text):
        return hashlib.blake2b(text.encode(), salt=self.salt, digest_size=8).hexdigest()


hasher = Hasher()


def lambda_handler(event, context):
    return {"digest": hasher.digest("secret")}
