"""The main job stage by stage: fine-tune, search, slice, recover, export, verify, benchmark, report."""
