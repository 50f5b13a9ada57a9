#!/bin/sh
# Tries a backup out: takes one from the running gateway, restores it to an empty place, and starts a gateway there that nobody uses.
#
#	drill.sh Caddyfile Caddyfile.drill
#
# Caddyfile.drill is the live configuration with another vault, another admin endpoint, and ports that are free; and, so that no upstream token is
# renewed twice, without network to the providers. It has the live encryption key. What the drill writes is gone when it ends.
set -eu
caddy=${CADDY:-caddy}
live=$1 drill=$2

scratch=$(mktemp -d)
started=
end() {
	if [ -n "$started" ]; then
		"$caddy" stop --config "$drill" --adapter caddyfile || true
	fi
	rm -rf "$scratch"
}
trap end EXIT

"$caddy" oauth-proxy backup --config "$live" --adapter caddyfile --to "$scratch/vault.backup"

# From here on as on a new host: what Caddy keeps beside the vault is not that of the live gateway.
export XDG_DATA_HOME="$scratch/data" XDG_CONFIG_HOME="$scratch/config"
"$caddy" oauth-proxy restore --config "$drill" --adapter caddyfile --from "$scratch/vault.backup" --revive

"$caddy" start --config "$drill" --adapter caddyfile
started=yes
"$caddy" oauth-proxy verify-audit --config "$drill" --adapter caddyfile
"$caddy" oauth-proxy stats --config "$drill" --adapter caddyfile
echo "The backup is good."
