"""The process that started this one, read before imports during which it may be killed."""

import os

PARENT = os.getppid()
