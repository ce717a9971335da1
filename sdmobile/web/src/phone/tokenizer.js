// CLIP's byte-pair encoding, as transformers' CLIPTokenizer does it from the same files.
//
//   text ─▶ learned tokens ─▶ NFC, blanks, small letters ─▶ words ─▶ bytes as letters ─▶ merges ─▶ identifiers

const WORD_END = "</w>";
// A blank is what Unicode calls one; JavaScript's own \s takes U+FEFF too and leaves out U+0085.
const BLANKS = /\p{White_Space}+/gu;
const WORDS = /<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\p{White_Space}\p{L}\p{N}]+/gu;
// The byte-level step splits once more; it only matters for words that look like the two special tokens.
const PIECES = /'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}+|[^\p{White_Space}\p{L}\p{N}]+/gu;

/** Returns the printable character that stands for each byte. */
function byteLetters() {
  const printable = (code) => (code >= 0x21 && code <= 0x7e) || (code >= 0xa1 && code <= 0xac) || code >= 0xae;
  let shifted = 256;
  return Array.from({ length: 256 }, (_, code) => String.fromCharCode(printable(code) ? code : shifted++));
}

/** Returns a pattern of literal texts, the longest first, or null of none. */
function anyOf(texts, flags) {
  if (texts.length === 0) return null;
  const escaped = [...texts]
    .sort((a, b) => b.length - a.length)
    .map((text) => text.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&"));
  return new RegExp(escaped.join("|"), flags);
}

/** Splits a text at tokens that stand for themselves; returns strings and identifiers in order. */
function splitAt(text, pattern, identifiers) {
  if (!pattern) return [text];
  const parts = [];
  let from = 0;
  for (const match of text.matchAll(pattern)) {
    parts.push(text.slice(from, match.index), identifiers.get(match[0]));
    from = match.index + match[0].length;
  }
  return [...parts, text.slice(from)];
}

/** Lower case letter by letter: a sigma at a word's end stays the usual one, as in the Rust library. */
function normalised(text) {
  const spaced = text.normalize("NFC").replace(BLANKS, " ");
  return Array.from(spaced, (letter) => letter.toLowerCase()).join("");
}

export class Tokenizer {
  /**
   * @param vocabulary content of vocab.json: identifiers by token.
   * @param merges content of merges.txt.
   * @param facts `tokenizer` of metadata.json.
   * @param config content of tokenizer_config.json, which names the two special tokens.
   */
  constructor(vocabulary, merges, facts, config) {
    this.vocabulary = vocabulary;
    this.facts = facts;
    this.unknown = vocabulary[config.unk_token ?? config.eos_token];
    this.letters = byteLetters();
    this.words = new Map();
    const lines = merges.split("\n").filter((line, i) => line && !(i === 0 && line.startsWith("#version")));
    this.ranks = new Map(lines.map((line, rank) => [line, rank]));
    const special = [config.bos_token, config.eos_token];
    this.special = new Map(special.map((token) => [token, vocabulary[token]]));
    this.specialPattern = anyOf(special, "g");
    this.added = new Map(Object.entries(facts.added_tokens ?? {}).map(([token, id]) => [normalised(token), id]));
    this.addedPattern = anyOf([...this.added.keys()], "g");
    this.expansions = new Map(
      Object.entries(facts.expansions ?? {}).map(([token, tokens]) => [token.toLowerCase(), tokens.join(" ")]),
    );
    this.expanded = this.expansions.size
      ? anyOf([...this.special.keys(), ...Object.keys(facts.added_tokens)], "gi")
      : null;
  }

  /** Returns the identifiers of a text, begun, ended, cut and filled up to the length that the text encoder takes. */
  encode(text) {
    const { length, bos_token_id: first, eos_token_id: last, pad_token_id: filler } = this.facts;
    const ids = [first, ...this.identifiers(text).slice(0, length - 2), last];
    while (ids.length < length) ids.push(filler);
    return Int32Array.from(ids);
  }

  /** Returns the identifiers of a text alone. */
  identifiers(text) {
    const written = this.expanded
      ? text.replace(this.expanded, (one) => this.expansions.get(one.toLowerCase()) ?? one)
      : text;
    const ids = [];
    for (const part of splitAt(written, this.specialPattern, this.special)) {
      if (typeof part === "number") {
        ids.push(part);
        continue;
      }
      for (const piece of splitAt(normalised(part), this.addedPattern, this.added)) {
        if (typeof piece === "number") ids.push(piece);
        else
          for (const word of piece.match(WORDS) ?? [])
            ids.push(...(word.match(PIECES) ?? []).flatMap((one) => this.word(one)));
      }
    }
    return ids;
  }

  /** Returns the identifiers of one word. */
  word(word) {
    let ids = this.words.get(word);
    if (!ids) {
      const symbols = Array.from(new TextEncoder().encode(word), (byte) => this.letters[byte]);
      symbols[symbols.length - 1] += WORD_END;
      ids = this.merged(symbols).map((symbol) => this.vocabulary[symbol] ?? this.unknown);
      this.words.set(word, ids);
    }
    return ids;
  }

  /** Joins the pair that was learned first, the leftmost of its kind, until no learned pair is left. */
  merged(symbols) {
    for (;;) {
      let best = Infinity;
      let at = -1;
      for (let i = 0; i + 1 < symbols.length; i++) {
        const rank = this.ranks.get(`${symbols[i]} ${symbols[i + 1]}`) ?? Infinity;
        if (rank < best) [best, at] = [rank, i];
      }
      if (at < 0) return symbols;
      symbols.splice(at, 2, symbols[at] + symbols[at + 1]);
    }
  }
}
