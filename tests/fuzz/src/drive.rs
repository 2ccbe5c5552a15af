//! A small mutator over a corpus: no instrumentation, so it runs on stable Rust; splicing and a dictionary of the
//! corpus's own words make up for some of that. An input that breaks a promise is kept in a file and named.

use anyhow::{Context, Result, bail};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

const LONGEST: usize = 4096;

/// How long a run takes: `FUZZ_SECONDS`, or three.
pub fn seconds() -> Duration {
    Duration::from_secs(std::env::var("FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(3))
}

/// Every file of the corpus, then mutations of them until the time is up. Says how many inputs there were.
pub fn run(name: &str, target: fn(&[u8])) -> Result<u64> {
    let corpus = corpus(name)?;
    let seed = std::env::var("FUZZ_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    let mut mutator = Mutator { random: StdRng::seed_from_u64(seed), words: words(&corpus), corpus };
    let mut count = 0;
    for input in mutator.corpus.clone() {
        attempt(name, seed, target, &input)?;
        count += 1;
    }
    let end = Instant::now() + seconds();
    while Instant::now() < end {
        let input = mutator.next();
        attempt(name, seed, target, &input)?;
        count += 1;
    }
    println!("{name}: {count} inputs, seed {seed}");
    Ok(count)
}

fn attempt(name: &str, seed: u64, target: fn(&[u8]), input: &[u8]) -> Result<()> {
    if catch_unwind(AssertUnwindSafe(|| target(input))).is_ok() {
        return Ok(());
    }
    let path = std::env::temp_dir().join(format!("fuzz-{name}-{seed}"));
    std::fs::write(&path, input).with_context(|| format!("keep the input in {}", path.display()))?;
    bail!("{name}: {} breaks a promise: {:?}", path.display(), String::from_utf8_lossy(input))
}

fn corpus(name: &str) -> Result<Vec<Vec<u8>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
        files.push(std::fs::read(entry?.path())?);
    }
    files.sort();
    if files.is_empty() {
        bail!("{} is empty", folder.display());
    }
    Ok(files)
}

/// What stands between punctuation in the corpus: field names, operators, numbers.
fn words(corpus: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let is_word = |b: &u8| b.is_ascii_alphanumeric() || *b >= 0x80 || b"_-$.".contains(b);
    let mut words: Vec<Vec<u8>> = corpus
        .iter()
        .flat_map(|input| input.split(|b| !is_word(b)))
        .filter(|w| !w.is_empty() && w.len() < 40)
        .map(<[u8]>::to_vec)
        .collect();
    for extra in [
        "null",
        "{}",
        "[]",
        "\"\"",
        "0",
        "-1",
        "9223372036854775808",
        "1e400",
        "\\u0000",
        "\u{feff}",
        "ü",
        "$patch",
        "---",
    ] {
        words.push(extra.as_bytes().to_vec());
    }
    words.sort();
    words.dedup();
    words
}

struct Mutator {
    random: StdRng,
    corpus: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
}

impl Mutator {
    fn below(&mut self, bound: usize) -> usize {
        self.random.random_range(0..bound.max(1))
    }

    fn next(&mut self) -> Vec<u8> {
        let at = self.below(self.corpus.len());
        let mut input = self.corpus[at].clone();
        for _ in 0..=self.below(6) {
            self.change(&mut input);
        }
        input.truncate(LONGEST);
        // What grows from mutations is kept now and then, so that changes add up.
        if self.below(200) == 0 && self.corpus.len() < 500 {
            self.corpus.push(input.clone());
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let (from, to) = {
            let (a, b) = (self.below(input.len() + 1), self.below(input.len() + 1));
            (a.min(b), a.max(b).min(a.min(b) + 64))
        };
        match self.below(9) {
            0 if !input.is_empty() => {
                let at = self.below(input.len());
                input[at] ^= 1 << self.below(8);
            }
            1 if !input.is_empty() => {
                let at = self.below(input.len());
                input[at] = self.random.random();
            }
            2 => drop(input.drain(from..to)),
            3 => {
                let piece = input[from..to].to_vec();
                let at = self.below(input.len() + 1);
                drop(input.splice(at..at, piece));
            }
            4 => {
                let byte = b"{}[]\",:\\'()=!<>+-*/%&|.\n \0~"[self.below(27)];
                input.insert(from, byte);
            }
            5 | 6 => {
                let word = self.word();
                let end = if self.below(2) == 0 { from } else { to };
                drop(input.splice(from..end, word));
            }
            7 => {
                let other = self.other();
                let (a, b) = (self.below(other.len() + 1), self.below(other.len() + 1));
                drop(input.splice(from..to, other[a.min(b)..a.max(b)].to_vec()));
            }
            _ => self.word_for_word(input),
        }
    }

    fn word(&mut self) -> Vec<u8> {
        let at = self.below(self.words.len());
        self.words[at].clone()
    }

    fn other(&mut self) -> Vec<u8> {
        let at = self.below(self.corpus.len());
        self.corpus[at].clone()
    }

    /// One word of the input by another: what keeps a structure whole.
    fn word_for_word(&mut self, input: &mut Vec<u8>) {
        let is_word = |b: u8| b.is_ascii_alphanumeric();
        let starts: Vec<usize> =
            (0..input.len()).filter(|i| is_word(input[*i]) && (*i == 0 || !is_word(input[i - 1]))).collect();
        if starts.is_empty() {
            return;
        }
        let start = starts[self.below(starts.len())];
        let end = (start..input.len()).find(|i| !is_word(input[*i])).unwrap_or(input.len());
        let word = self.word();
        drop(input.splice(start..end, word));
    }
}
