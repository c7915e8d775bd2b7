"""Worker processes: jobs run outside this process, so that a crash, a hang or a flood of memory does not end it."""
