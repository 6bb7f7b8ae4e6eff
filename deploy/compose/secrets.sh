#!/usr/bin/env bash
# Writes new secrets for the compose file: the folder `secrets`, `.env`, and the key of the API.
# Existing ones stay. The programs run as 65532, so that the files are readable for every user of
# this machine; the folder is not.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

if [[ -e secrets ]]; then
    echo 'secrets: exists; remove it and the volumes to start again' >&2
    exit 1
fi
umask 077
mkdir secrets
database=$(openssl rand -hex 24)
broker=$(openssl rand -hex 24)
key=$(openssl rand -hex 32)
printf %s "$database" >secrets/database_password
printf %s "postgres://aios:$database@database/aios" >secrets/database_url
printf %s "amqp://aios:$broker@broker" >secrets/broker_url
printf %s "$key" | sha256sum | cut -c -64 | tr -d '\n' >secrets/key_hash
printf 'AIOS_BROKER_PASSWORD=%s\n' "$broker" >.env
chmod 644 secrets/*
printf 'The key of the API, which is stored nowhere: %s\n' "$key"
