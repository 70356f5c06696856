#!/bin/sh
# Make every secret this installation needs, once. Each file belongs to the one account that reads it.
# A second run changes nothing, so that a restart never locks anybody out.
set -eu
folder=${1:-/run/agentmail}
agentmail=10001 postgres=999 stalwart=2000
umask 077

random() {
  head -c 32 /dev/urandom | od -An -v -t x1 | tr -d ' \n'
}

# keep NAME OWNER VALUE: written under another name first, so that no half secret is ever read.
keep() {
  [ -s "$folder/$1" ] && return
  printf '%s\n' "$3" >"$folder/$1.new"
  chmod 400 "$folder/$1.new"
  chown "$2:$2" "$folder/$1.new"
  mv "$folder/$1.new" "$folder/$1"
}

keep postgres_password "$postgres" "$(random)"
keep database_url "$agentmail" \
  "postgresql://agentmail:$(cat "$folder/postgres_password")@postgres:5432/agentmail"
keep stalwart_password "$stalwart" "$(random)"
keep stalwart_admin "$agentmail" "recovery:$(cat "$folder/stalwart_password")"
keep webhook_secret "$agentmail" "$(random)"

# stalwart-apply leaves our key here, and the mark that the first start is over.
chown "$agentmail:$agentmail" "$folder"
chmod 755 "$folder"
