"""Configuration fetched at init, and fetched again when it is five minutes old: the wall clock decides."""

import os
import time

import requests


class Config:
    def __init__(self):
        self.values = {}
        self.fetched = 0.0
        self.refresh()

    def refresh(self):
        self.values = requests.get(os.environ["HTTP_URL"] + "/config", timeout=2).json()
        self.fetched = time.time()  #! SR004

    def get(self, name):
        if time.time() - self.fetched > 300:
            self.refresh()
        return self.values.get(name)


config = Config()


def lambda_handler(event, context):
    return config.get("path")
