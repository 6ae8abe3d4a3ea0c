// What Java's PKIX validation says of certificates under CRLs. Each line of the standard input is a case:
//   NAME <tab> CA <tab> CERTIFICATE <tab> UNIX SECONDS <tab> CRL [<tab> CRL ...]
// and each line of the output is its NAME, a tab, and "good", "revoked REASON" or "refused: WHY".
// Run it as it is: java CertPathCrl.java

import java.io.*;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.security.cert.*;
import java.util.*;

public final class CertPathCrl {
    public static void main(String[] arguments) throws Exception {
        CertificateFactory factory = CertificateFactory.getInstance("X.509");
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = lines.readLine()) != null; ) {
            String[] parts = line.split("\t");
            System.out.println(parts[0] + "\t" + judge(factory, parts));
        }
    }

    private static String judge(CertificateFactory factory, String[] parts) throws Exception {
        X509Certificate ca = certificate(factory, parts[1]);
        List<Object> store = new ArrayList<>();
        for (String file : Arrays.asList(parts).subList(4, parts.length)) {
            try (InputStream in = Files.newInputStream(Path.of(file))) {
                X509CRL list = (X509CRL) factory.generateCRL(in);
                list.verify(ca.getPublicKey());
                store.add(list);
            }
        }
        PKIXParameters parameters = new PKIXParameters(Set.of(new TrustAnchor(ca, null)));
        parameters.setDate(new Date(Long.parseLong(parts[3]) * 1000));
        parameters.addCertStore(CertStore.getInstance("Collection", new CollectionCertStoreParameters(store)));
        CertPathValidator validator = CertPathValidator.getInstance("PKIX");
        PKIXRevocationChecker checker = (PKIXRevocationChecker) validator.getRevocationChecker();
        checker.setOptions(EnumSet.of(
            PKIXRevocationChecker.Option.PREFER_CRLS, PKIXRevocationChecker.Option.NO_FALLBACK));
        parameters.addCertPathChecker(checker);
        try {
            validator.validate(factory.generateCertPath(List.of(certificate(factory, parts[2]))), parameters);
            return "good";
        } catch (CertPathValidatorException refused) {
            Throwable cause = refused.getCause();
            if (refused.getReason() == CertPathValidatorException.BasicReason.REVOKED
                    && cause instanceof CertificateRevokedException revoked) {
                return "revoked " + revoked.getRevocationReason();
            }
            return "refused: " + refused.getReason() + ": " + refused.getMessage();
        }
    }

    private static X509Certificate certificate(CertificateFactory factory, String file) throws Exception {
        try (InputStream in = Files.newInputStream(Path.of(file))) {
            return (X509Certificate) factory.generateCertificate(in);
        }
    }
}
