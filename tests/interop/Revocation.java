// Asks about certificates as a Java program does: PKIXRevocationChecker, which finds the responder in the
// certificate itself. Each line of the output is a file's name and what the path validation says of it.
//
//   java Revocation.java CA.pem CERTIFICATE.pem...

import java.io.FileInputStream;
import java.io.InputStream;
import java.nio.file.Path;
import java.security.cert.CertPathValidator;
import java.security.cert.CertPathValidatorException;
import java.security.cert.CertificateFactory;
import java.security.cert.CertificateRevokedException;
import java.security.cert.PKIXParameters;
import java.security.cert.PKIXRevocationChecker;
import java.security.cert.PKIXRevocationChecker.Option;
import java.security.cert.TrustAnchor;
import java.security.cert.X509Certificate;
import java.util.EnumSet;
import java.util.List;
import java.util.Set;

public class Revocation {
    public static void main(String[] files) throws Exception {
        System.out.println("Java " + System.getProperty("java.version"));
        Set<TrustAnchor> anchors = Set.of(new TrustAnchor(read(files[0]), null));
        for (int at = 1; at < files.length; at++) {
            System.out.println(Path.of(files[at]).getFileName() + ": " + check(anchors, read(files[at])));
        }
    }

    private static X509Certificate read(String file) throws Exception {
        try (InputStream in = new FileInputStream(file)) {
            return (X509Certificate) CertificateFactory.getInstance("X.509").generateCertificate(in);
        }
    }

    private static String check(Set<TrustAnchor> anchors, X509Certificate certificate) throws Exception {
        CertPathValidator validator = CertPathValidator.getInstance("PKIX");
        PKIXRevocationChecker checker = (PKIXRevocationChecker) validator.getRevocationChecker();
        checker.setOptions(EnumSet.of(Option.NO_FALLBACK, Option.ONLY_END_ENTITY));
        PKIXParameters parameters = new PKIXParameters(anchors);
        parameters.addCertPathChecker(checker);
        try {
            validator.validate(CertificateFactory.getInstance("X.509").generateCertPath(List.of(certificate)), parameters);
            return "good";
        } catch (CertPathValidatorException error) {
            if (error.getCause() instanceof CertificateRevokedException revoked) {
                return "revoked " + revoked.getRevocationReason() + ", invalid since " + revoked.getInvalidityDate();
            }
            return error.getReason() + ": " + error.getMessage();
        }
    }
}
