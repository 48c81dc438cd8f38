//! A long-running filter of git (`filter.NAME.process`), as git-lfs is one: what is `stored` in git is `worked` on in
//! files. See "Long Running Filter Process" in gitattributes(5).

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::path::Path;

/// The longest content of a packet.
const MAX_PACKET: usize = 65_516;

/// Answers git until git closes the pipe. Appends the name of each command to the journal.
pub(crate) fn serve(journal: &Path) -> io::Result<()> {
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let mut journal = OpenOptions::new().create(true).append(true).open(journal)?;
    // What git says about itself: its name with the versions, then what it can do.
    read_list(&mut input)?;
    write_list(&mut output, &["git-filter-server", "version=2"])?;
    read_list(&mut input)?;
    write_list(&mut output, &["capability=clean", "capability=smudge"])?;
    loop {
        let request = read_list(&mut input)?;
        let command = request.iter().find_map(|line| line.strip_prefix("command="));
        let Some(command) = command else {
            return Ok(());
        };
        writeln!(journal, "{command}")?;
        let (from, to) = if command == "clean" {
            ("worked", "stored")
        } else {
            ("stored", "worked")
        };
        let mut content = Vec::new();
        while let Some(packet) = read_packet(&mut input)? {
            content.extend(packet);
        }
        let content = String::from_utf8_lossy(&content).replace(from, to);
        write_list(&mut output, &["status=success"])?;
        for piece in content.as_bytes().chunks(MAX_PACKET) {
            write_packet(&mut output, piece)?;
        }
        output.write_all(b"0000")?;
        // The status stays what it is.
        write_list(&mut output, &[])?;
    }
}

/// The lines up to the next empty packet, or to the end of the input.
fn read_list(input: &mut impl Read) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    while let Some(packet) = read_packet(input)? {
        lines.push(String::from_utf8_lossy(&packet).trim_end().to_owned());
    }
    Ok(lines)
}

/// A packet: its length with the four bytes of the length itself in hexadecimal digits, and its content. None for the
/// empty one, and at the end of the input.
fn read_packet(input: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match input.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = std::str::from_utf8(&length).ok();
    let length = length.and_then(|digits| usize::from_str_radix(digits, 16).ok());
    let length = length.ok_or(io::ErrorKind::InvalidData)?;
    if length == 0 {
        return Ok(None);
    }
    let mut content = vec![0; length.saturating_sub(4)];
    input.read_exact(&mut content)?;
    Ok(Some(content))
}

fn write_packet(output: &mut impl Write, content: &[u8]) -> io::Result<()> {
    write!(output, "{:04x}", content.len() + 4)?;
    output.write_all(content)
}

fn write_list(output: &mut impl Write, lines: &[&str]) -> io::Result<()> {
    for line in lines {
        write_packet(output, format!("{line}\n").as_bytes())?;
    }
    output.write_all(b"0000")?;
    output.flush()
}
