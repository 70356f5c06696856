#!/bin/sh
# Start Stalwart. The very first time it starts in recovery mode, in which nothing but its HTTP port is
# open and nobody's mail is taken, until stalwart-apply has given it its name, its listeners and its
# limits; Stalwart's own defaults would otherwise come in first, and ports only open at a start.
set -eu
folder=${1:-/run/agentmail}
config=${2:-/etc/stalwart/config.json}
STALWART_RECOVERY_ADMIN="recovery:$(cat "$folder/stalwart_password")"
export STALWART_RECOVERY_ADMIN

if [ ! -e "$folder/prepared" ]; then
  STALWART_RECOVERY_MODE=1 stalwart --config "$config" &
  server=$!
  trap 'kill "$server"; wait "$server" || true; exit 143' TERM INT
  until [ -e "$folder/prepared" ]; do
    kill -0 "$server" || exit 1
    sleep 1
  done
  kill "$server"
  wait "$server" || true
  trap - TERM INT
fi
exec stalwart --config "$config"
