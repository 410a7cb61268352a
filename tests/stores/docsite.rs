//! The example site answers the same bytes from every store.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use crate::races;
use crate::services::{PATIENCE, Store};
use crate::support::servers::folder;

/// What the site answered: status and body, fields that do not depend on time, and whether it
/// came from the cache.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    asked: &'static str,
    status: String,
    fields: Vec<String>,
    is_hit: bool,
    body: String,
}

struct Site {
    process: Child,
    address: String,
}

impl Site {
    fn start(url: &str, pages: &Path) -> Self {
        let mut process = Command::new(build_examples().join("docsite"))
            .arg(pages)
            .env("ADDR", "127.0.0.1:0")
            .env("CACHE_URL", url)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let address = line.trim().rsplit_once("//").expect(&line).1.to_owned();
        Self { process, address }
    }

    fn ask(&self, asked: &'static str) -> Answer {
        let mut words = asked.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let (mut fields, mut body) = (String::new(), String::new());
        for word in words {
            match word.split_once(':') {
                Some(_) => fields.extend([word, "\r\n"]),
                None => word.clone_into(&mut body),
            }
        }
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: docs.test\r\nconnection: close\r\n{fields}\
             content-type: application/x-www-form-urlencoded\r\ncontent-length: {length}\r\n\r\n\
             {body}"
        );
        let request = match method {
            // A request with a body is none of the cache's.
            "GET" => request.replace("content-length: 0\r\n", ""),
            _ => request,
        };
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let (status, head) = head.split_once("\r\n").unwrap();
        let of_time = [
            "date:",
            "age:",
            "expires:",
            "server-timing:",
            "cache-status:",
        ];
        let is_steady = |field: &&str| !of_time.iter().any(|name| field.starts_with(name));
        let mut fields: Vec<_> = head.lines().filter(is_steady).map(str::to_owned).collect();
        fields.sort();
        Answer {
            asked,
            status: status.to_owned(),
            fields,
            is_hit: head.contains("; hit"),
            body: body.to_owned(),
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The examples, built as this test is: the folder that they are in.
pub(crate) fn build_examples() -> &'static Path {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--examples", "--all-features"]);
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(build.status().unwrap().success());
        let this = std::env::current_exe().unwrap();
        let profile = this.parent().unwrap().parent().unwrap();
        profile.join("examples")
    });
    &FOLDER
}

/// What a reader and an editor do, and what they are answered.
fn visit(url: &str) -> Vec<Answer> {
    let pages = folder("pages");
    std::fs::write(pages.join("one.md"), "# One\n\nalpha *beta*\n").unwrap();
    std::fs::write(
        pages.join("two.md"),
        "# Two\n\n| gamma |\n|---|\n| alpha |\n",
    )
    .unwrap();
    let site = Site::start(url, &pages);
    // And whether it is in the cache by then.
    let asked = [
        ("GET /one.md", false),
        ("GET /one.md", true),
        ("GET /two.md accept-language:de", false),
        ("GET /two.md accept-language:de", true),
        ("GET /two.md accept-language:en", false),
        ("GET /search?q=alpha", false),
        ("GET /search?q=alpha", false),
        ("GET /absent.md", false),
        ("GET /edit/one.md", false),
        ("POST /edit/one.md text=%23+New+%C3%A4%0A%0Adelta", false),
        ("GET /one.md", false),
        ("GET /one.md", true),
        ("GET /search?q=delta", false),
        ("GET /search?q=beta", false),
    ];
    let answers = asked.map(|(asked, is_hit)| {
        let start = Instant::now();
        loop {
            let answer = site.ask(asked);
            // A page is answered first and stored then.
            if answer.is_hit || !is_hit || start.elapsed() > PATIENCE {
                break answer;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    std::fs::remove_dir_all(pages).unwrap();
    answers.into()
}

pub(crate) fn same_bytes(store: &'static Store) {
    let expected = visit("memory://");
    let hits: Vec<_> = expected.iter().map(|answer| answer.is_hit).collect();
    assert_eq!(hits.iter().filter(|hit| **hit).count(), 3, "{expected:#?}");
    assert!(expected[10].body.contains("delta"), "{expected:#?}");
    let service = (store.start)();
    let answers = visit(&races::url(store, &*service));
    for (answer, expected) in answers.iter().zip(&expected) {
        assert_eq!(answer, expected);
    }
}
