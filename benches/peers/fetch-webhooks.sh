#!/bin/sh
# Fetches the bodies of the webhooks row, from the npm registry that is configured, into webhooks/.
set -eu
cd "$(dirname "$0")"
mkdir -p webhooks
cd webhooks
npm pack --silent @octokit/webhooks-examples@7.6.1
tar -xzf octokit-webhooks-examples-*.tgz
rm octokit-webhooks-examples-*.tgz
test -f package/api.github.com/index.json
