#!/bin/sh
# Bring Stalwart to the wanted state. The first time it runs in recovery mode (see stalwart.sh): what
# must be there before its first real start is set, then it is let go, and the rest follows.
set -eu
folder=${1:-/run/agentmail}
hostname=${AGENTMAIL_CP_SMTP_HOST:-localhost}
[ "$hostname" != localhost ] || hostname="mail.$AGENTMAIL_CP_DOMAIN"

if [ ! -e "$folder/prepared" ]; then
  agentmail-cp stalwart apply --own "$hostname"
  touch "$folder/prepared"
fi

# It is away for a moment while it starts, and there is no key before that.
for _ in $(seq 30); do
  if agentmail-cp stalwart apply --own "$hostname" --key-file "$folder/stalwart_key" &&
    [ -s "$folder/stalwart_key" ]; then
    exit 0
  fi
  sleep 1
done
exit 1
