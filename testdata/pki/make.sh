#!/usr/bin/env bash
# Makes the certificates and keys in this folder anew, with OpenSSL 3. Tests read them as they stand here;
# run this only when they must change. All live until 2056 but the one that has expired.
#
#   ca-KIND.pem, ca-KIND.key      a CA; KIND is p256, p384, rsa2048 or ed25519
#   ocsp-KIND.pem, ocsp-KIND.key  its OCSP delegate: OCSPSigning, nocheck
#   ocsp-no-eku.pem               delegates of ca-p256 with the key ocsp-p256.key that must be refused: it may not
#   ocsp-expired.pem              sign OCSP responses; it lapsed in 2021; it was issued by another CA, ca-p384
#   ocsp-other-ca.pem
#   ca-no-crl.pem                 ca-p256's name and key, with a keyUsage that forbids signing CRLs
#   keys/                         ocsp-p256.key and ocsp-rsa2048.key in the other forms that keys come in
set -euo pipefail
umask 022
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p keys

cat > "$work/ca.cnf" <<CONF
[ca]
default_ca = it
[it]
new_certs_dir = $work
database = $work/index.txt
rand_serial = yes
unique_subject = no
default_md = default
policy = any
[any]
organizationName = optional
commonName = supplied
[req]
distinguished_name = none
[none]
[root]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign, digitalSignature
subjectKeyIdentifier = hash
[root_no_crl]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, digitalSignature
subjectKeyIdentifier = hash
[delegate]
keyUsage = critical, digitalSignature
extendedKeyUsage = OCSPSigning
noCheck = ignored
authorityKeyIdentifier = keyid
subjectKeyIdentifier = hash
[no_eku]
keyUsage = critical, digitalSignature
noCheck = ignored
authorityKeyIdentifier = keyid
subjectKeyIdentifier = hash
CONF
: > "$work/index.txt"

# certificate FILE KEY SUBJECT EXTENSIONS NOT_AFTER [CA]; without CA it signs itself
certificate() {
  local file=$1 key=$2 subject=$3 extensions=$4 not_after=$5 ca=${6-}
  openssl req -new -key "$key" -subj "$subject" -config "$work/ca.cnf" -out "$work/request.pem"
  local signer=(-selfsign -keyfile "$key")
  [ -z "$ca" ] || signer=(-cert "ca-$ca.pem" -keyfile "ca-$ca.key")
  openssl ca -batch -notext -config "$work/ca.cnf" -in "$work/request.pem" -out "$file" "${signer[@]}" \
    -extensions "$extensions" -startdate 20200101000000Z -enddate "$not_after" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
}

key() {
  case $1 in
    p256) openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$2" ;;
    p384) openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out "$2" ;;
    rsa2048) openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$2" ;;
    ed25519) openssl genpkey -algorithm ED25519 -out "$2" ;;
  esac
}

until=20560101000000Z
for kind in p256 p384 rsa2048 ed25519; do
  key "$kind" "ca-$kind.key"
  certificate "ca-$kind.pem" "ca-$kind.key" "/O=Jarchy Tests/CN=CA $kind" root $until
  key "$kind" "ocsp-$kind.key"
  certificate "ocsp-$kind.pem" "ocsp-$kind.key" "/O=Jarchy Tests/CN=OCSP $kind" delegate $until "$kind"
done
certificate ocsp-no-eku.pem ocsp-p256.key "/O=Jarchy Tests/CN=OCSP without EKU" no_eku $until p256
certificate ocsp-expired.pem ocsp-p256.key "/O=Jarchy Tests/CN=OCSP expired" delegate 20210101000000Z p256
certificate ocsp-other-ca.pem ocsp-p256.key "/O=Jarchy Tests/CN=OCSP of another CA" delegate $until p384
certificate ca-no-crl.pem ca-p256.key "/O=Jarchy Tests/CN=CA p256" root_no_crl $until

# The forms of one key.
openssl pkey -in ocsp-p256.key -outform DER -out keys/p256.pkcs8.der
openssl ec -in ocsp-p256.key -out keys/p256.sec1.pem 2>/dev/null
{ openssl ecparam -name prime256v1; cat keys/p256.sec1.pem; } > keys/p256.sec1-after-parameters.pem
openssl ec -in ocsp-p256.key -no_public -out keys/p256.sec1-without-public-key.pem 2>/dev/null
scalar=$(openssl ec -in ocsp-p256.key -noout -text 2>/dev/null | sed '1,/^priv:/d;/^pub:/,$d' | tr -d ' :\n')
cat > "$work/pkcs8.cnf" <<CONF
asn1 = SEQUENCE:key
[key]
version = INTEGER:0
algorithm = SEQUENCE:algorithm
private = OCTWRAP,SEQUENCE:private
[algorithm]
type = OID:id-ecPublicKey
curve = OID:prime256v1
[private]
version = INTEGER:1
scalar = FORMAT:HEX,OCTETSTRING:${scalar: -64}
CONF
openssl asn1parse -genconf "$work/pkcs8.cnf" -noout -out "$work/key.der"
{ echo "-----BEGIN PRIVATE KEY-----"; openssl base64 -in "$work/key.der"; echo "-----END PRIVATE KEY-----"; } \
  > keys/p256.pkcs8-without-public-key.pem
openssl rsa -in ocsp-rsa2048.key -traditional -out keys/rsa2048.pkcs1.pem 2>/dev/null
cat ocsp-p256.pem ocsp-p256.key > keys/p256.after-certificate.pem

# Keys that are refused.
openssl pkcs8 -topk8 -in ocsp-p256.key -v2 aes-256-cbc -passout pass:secret -out keys/encrypted.pkcs8.pem
openssl ec -in ocsp-p256.key -aes128 -passout pass:secret -out keys/encrypted.sec1.pem 2>/dev/null
openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:1024 -out keys/rsa1024.pem
openssl req -new -x509 -key keys/rsa1024.pem -subj "/O=Jarchy Tests/CN=RSA 1024" -days 10950 -out keys/rsa1024.certificate.pem
chmod 644 ./*.key keys/*

# What must hold of all this, as OpenSSL sees it.
for kind in p256 p384 rsa2048 ed25519; do openssl verify -CAfile "ca-$kind.pem" "ocsp-$kind.pem"; done
for form in keys/p256.*; do cmp <(openssl pkey -in "$form" -pubout) <(openssl pkey -in ocsp-p256.key -pubout); done
cmp <(openssl pkey -in keys/rsa2048.pkcs1.pem -pubout) <(openssl pkey -in ocsp-rsa2048.key -pubout)
