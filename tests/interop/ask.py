"""Asks about certificates with the package `cryptography`, which builds the request and reads the response.

    python3 ask.py CA.pem CERTIFICATE.pem...

The responder is the one that the certificate names. Each line of the output is a file's name and its status
under one hash; anything that is not as it must be ends the program with a traceback.
"""

import os
import sys
import urllib.request

import cryptography
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID


def read(path):
    with open(path, "rb") as file:
        return x509.load_pem_x509_certificate(file.read())


def responder(certificate):
    access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    return next(one.access_location.value for one in access if one.access_method == AuthorityInformationAccessOID.OCSP)


def moment(response, name):
    """Old versions of the package know times without a zone only, new ones dislike them."""
    return getattr(response, name + "_utc", None) or getattr(response, name)


def ask(certificate, ca, algorithm, nonce):
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, ca, algorithm)
    if nonce:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    body = builder.build().public_bytes(serialization.Encoding.DER)
    headers = {"Content-Type": "application/ocsp-request"}
    request = urllib.request.Request(responder(certificate), data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.headers["Content-Type"] == "application/ocsp-response"
        return ocsp.load_der_ocsp_response(answer.read())


def check(response, certificate, ca, algorithm, nonce):
    if response.response_status != ocsp.OCSPResponseStatus.SUCCESSFUL:
        return response.response_status.name
    assert response.serial_number == certificate.serial_number
    assert response.hash_algorithm.name == algorithm.name
    assert response.responder_name is None and len(response.responder_key_hash) == 20
    assert moment(response, "this_update") <= moment(response, "produced_at") < moment(response, "next_update")
    (delegate,) = response.certificates
    ca.public_key().verify(
        delegate.signature, delegate.tbs_certificate_bytes, ec.ECDSA(delegate.signature_hash_algorithm)
    )
    usage = delegate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.OCSP_SIGNING]
    delegate.public_key().verify(
        response.signature, response.tbs_response_bytes, ec.ECDSA(response.signature_hash_algorithm)
    )
    if nonce:
        assert response.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == nonce
    else:
        assert len(response.extensions) == 0
    reason = response.revocation_reason.value if response.revocation_reason else ""
    return f"{response.certificate_status.name} {reason}".strip()


def main():
    print("cryptography", cryptography.__version__)
    ca = read(sys.argv[1])
    for path in sys.argv[2:]:
        certificate = read(path)
        for algorithm in (hashes.SHA1(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()):
            for nonce in (None, os.urandom(32)):
                response = ask(certificate, ca, algorithm, nonce)
                said = check(response, certificate, ca, algorithm, nonce)
                print(f"{os.path.basename(path)}: {algorithm.name} {'nonce' if nonce else 'plain'}: {said}")


main()
