"""What Python's cryptography reads in CRLs.

Each line of the standard input is a case: NAME, CA, SERIAL in hex and CRL, separated by tabs. Each line of the output
is its NAME, a tab, and "good" or "REASON" of the entry; "refused: WHY" if the list cannot be believed.
"""

import sys

from cryptography import x509


def judge(ca_file, serial, crl_file):
    with open(ca_file, "rb") as file:
        ca = x509.load_pem_x509_certificate(file.read())
    with open(crl_file, "rb") as file:
        crl = x509.load_der_x509_crl(file.read())
    if not crl.is_signature_valid(ca.public_key()):
        return "refused: signature"
    if crl.issuer != ca.subject:
        return "refused: issuer"
    number = crl.extensions.get_extension_for_class(x509.CRLNumber)
    key = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    own = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    if number.critical or number.value.crl_number <= 0 or key != own:
        return "refused: number or key identifier"
    for extension in crl.extensions:
        known = isinstance(extension.value, (x509.DeltaCRLIndicator, x509.IssuingDistributionPoint))
        if extension.critical != known or isinstance(extension.value, x509.UnrecognizedExtension):
            return f"refused: {extension}"
    if len({entry.serial_number for entry in crl}) != len(crl):
        return "refused: a serial stands twice"
    entry = crl.get_revoked_certificate_by_serial_number(int(serial, 16))
    if entry is None:
        return "good"
    try:
        return entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
    except x509.ExtensionNotFound:
        return "unspecified"


for line in sys.stdin:
    name, ca_file, serial, crl_file = line.rstrip("\n").split("\t")
    try:
        print(name, judge(ca_file, serial, crl_file), sep="\t")
    except Exception as error:
        print(name, f"refused: {error!r}", sep="\t")
