#!/usr/bin/env bash
# What the action does: `pocketvit gate` from environment variables, and its summary where the pull request shows it.
set -euo pipefail

arguments=(--junit "${JUNIT:-pocketvit-gate.xml}")
summary=$(mktemp)
trap 'rm -f "$summary"' EXIT
arguments+=(--markdown "$summary")
[ -z "${BASELINE:-}" ] || arguments+=(--baseline "$BASELINE")
[ -z "${CONFIG:-}" ] || arguments+=(--config "$CONFIG")
# shellcheck disable=SC2206 # several words are several arguments
[ -z "${ARGUMENTS:-}" ] || arguments+=($ARGUMENTS)
files=()
[ -z "${BASE:-}" ] || files+=("$BASE")
if [ -n "${BASELINE:-}" ]; then
  # shellcheck disable=SC2206 # several words are several files
  files+=($NEW)
else
  files+=("$NEW")
fi

status=0
pocketvit gate "${arguments[@]}" -- "${files[@]}" || status=$?
[ -z "${GITHUB_STEP_SUMMARY:-}" ] || cat "$summary" >> "$GITHUB_STEP_SUMMARY"
exit "$status"
