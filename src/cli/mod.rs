//! The commands that `jarchy` understands, one file each.

pub mod demo;
pub mod init;
pub mod query;

use std::path::Path;

/// `path` as one word of a shell's command line.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:@%,".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        for (path, word) in
            [("/a/b.pem", "/a/b.pem"), ("/a b", "'/a b'"), ("it's", r"'it'\''s'"), ("", "''"), ("$x", "'$x'")]
        {
            assert_eq!(shell_word(Path::new(path)), word);
        }
    }
}
