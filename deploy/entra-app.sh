#!/usr/bin/env bash
# Registers presence-cloud in Microsoft Entra with the Azure CLI (az), or brings an existing registration up to date.
# Without --apply nothing is changed: it only prints what it would do.
set -euo pipefail

graph=00000003-0000-0000-c000-000000000000
# Permissions of Microsoft Graph. docs/onboarding-guide.md says what each is for; a test compares the two.
scopes=(
    9c7a330d-35b3-4aa1-963d-cb2b9f927841 # Presence.Read.All
    b340eb25-3456-403f-be2f-af7a0d370277 # User.ReadBasic.All
    37f7f235-527c-4136-accd-4a02d197296e # openid
    14dad69e-099b-42c9-810b-d002981feec1 # profile
    7427e0e9-2fba-42fe-b0c0-848c9e6a8182 # offline_access
)
roles=(
    a70e0c2d-e793-494c-94c4-118fa0a67f42 # Presence.Read.All
    97235f07-e226-4f63-ace3-39588e11d3a1 # User.ReadBasic.All
)

usage() {
    cat <<'USAGE'
Usage: entra-app.sh --public-url URL --certificate FILE [--name NAME] [--app-id ID] [--apply]

  --public-url URL     [web] public_url of cloud.toml: an https origin without a path
  --certificate FILE   the certificate of the application, PEM; its private key stays where it is
  --name NAME          name of the application (default: Presence Bridge)
  --app-id ID          client id of the registration to update, when several have that name
  --apply              do it; without it, only say what would be done
  --help               this text

Sign in first, as an Application Administrator of your own tenant: az login --allow-no-subscriptions
USAGE
}

fail() {
    printf 'entra-app.sh: %s\n' "$*" >&2
    exit 2
}

name="Presence Bridge" public_url='' certificate='' app_id='' apply=no
while [ $# -gt 0 ]; do
    case $1 in
        --name | --public-url | --certificate | --app-id) [ $# -ge 2 ] || fail "$1 needs a value" ;;
    esac
    case $1 in
        --name) name=$2 && shift 2 ;;
        --public-url) public_url=${2%/} && shift 2 ;;
        --certificate) certificate=$2 && shift 2 ;;
        --app-id) app_id=$2 && shift 2 ;;
        --apply) apply=yes && shift ;;
        --help | -h) usage && exit 0 ;;
        *) fail "unknown option $1; see --help" ;;
    esac
done

[[ $public_url =~ ^https://[A-Za-z0-9.-]+(:[0-9]+)?$ ]] ||
    fail "--public-url must be an https origin such as https://connect.example.com, without a path"
[[ $name =~ ^[A-Za-z0-9][A-Za-z0-9\ ._-]*$ ]] || fail "--name may have letters, digits, spaces, dots, underscores and hyphens"
[[ -z $app_id || $app_id =~ ^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$ ]] || fail "--app-id must be a client id"
[ -n "$certificate" ] || fail "--certificate is missing"
[ -r "$certificate" ] || fail "cannot read $certificate"
if grep -q 'PRIVATE KEY' "$certificate"; then
    fail "$certificate holds a private key; give the certificate alone, the key must not leave this machine"
fi
openssl x509 -in "$certificate" -noout 2>/dev/null || fail "$certificate is not a PEM certificate"
openssl x509 -in "$certificate" -noout -checkend 0 >/dev/null || fail "$certificate has ended; make a new one"
command -v az >/dev/null || fail "the Azure CLI (az) is not installed"

access() {
    local id list=''
    for id in "${scopes[@]}"; do list+="{\"id\":\"$id\",\"type\":\"Scope\"},"; done
    for id in "${roles[@]}"; do list+="{\"id\":\"$id\",\"type\":\"Role\"},"; done
    printf '[{"resourceAppId":"%s","resourceAccess":[%s]}]' "$graph" "${list%,}"
}

# Changes something: only with --apply.
change() {
    if [ "$apply" = yes ]; then
        "$@" >/dev/null
    else
        printf 'would run:'
        printf ' %q' "$@"
        printf '\n'
    fi
}

if [ -z "$app_id" ]; then
    found=$(az ad app list --filter "displayName eq '$name'" --query '[].appId' --output tsv)
    [ "$(printf '%s' "$found" | grep -c .)" -le 1 ] || fail "several applications are named $name; choose one with --app-id"
    app_id=$found
fi
if [ -z "$app_id" ]; then
    if [ "$apply" = yes ]; then
        app_id=$(az ad app create --display-name "$name" --sign-in-audience AzureADMultipleOrgs --query appId --output tsv)
    else
        printf 'would create the application "%s"\n' "$name"
        app_id=00000000-0000-0000-0000-000000000000
    fi
fi

change az ad app update --id "$app_id" --display-name "$name" --sign-in-audience AzureADMultipleOrgs \
    --web-redirect-uris "$public_url/callback" --required-resource-accesses "$(access)" \
    --set groupMembershipClaims=DirectoryRole

thumbprint=$(openssl x509 -in "$certificate" -noout -fingerprint -sha1 | cut -d= -f2 | tr -d :)
encoded=$(openssl x509 -in "$certificate" -outform DER | openssl dgst -sha1 -binary | base64)
known=''
if [ "$app_id" != 00000000-0000-0000-0000-000000000000 ]; then
    known=$(az ad app credential list --id "$app_id" --cert --query '[].customKeyIdentifier' --output tsv)
fi
# Written in hexadecimal or in base64, as the version of az has it.
if printf '%s\n' "$known" | grep -qix -e "$thumbprint" || printf '%s\n' "$known" | grep -qxF -e "$encoded"; then
    printf 'the certificate is registered already: %s\n' "$thumbprint"
else
    # Beside those there are, which stay good: replacing one is no event.
    change az ad app credential reset --id "$app_id" --append --cert "@$certificate"
fi

cat <<DONE

# For cloud.toml. Then, in Entra, approve the permissions for your own tenant if you connect it, too.
[microsoft]
client_id = "$app_id"
certificate_file = "$(basename "$certificate")"
private_key_file = "app.key"
DONE
