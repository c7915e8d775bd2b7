"""Other machines to measure on: boards over ssh, phones over adb, and emulated boards."""
