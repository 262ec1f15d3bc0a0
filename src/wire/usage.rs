//! The tokens that an answer says it used.

use super::json::Token;

/// Tokens of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Usage {
    pub(crate) input: u64,
    pub(crate) output: u64,
    /// Input tokens that were written to a cache or read from one, where the provider counts them apart.
    pub(crate) cached: u64,
}

/// The numbers of a `usage` object. A value that is no whole number counts as missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    prompt: Option<u64>,
    completion: Option<u64>,
    input: Option<u64>,
    output: Option<u64>,
    total: Option<u64>,
    cache_creation: Option<u64>,
    cache_read: Option<u64>,
}

impl Counts {
    /// Takes in one member of the object. The last one of a name wins.
    pub(super) fn note(&mut self, name: &[u8], value: Token<'_>) {
        let field = match name {
            b"prompt_tokens" => &mut self.prompt,
            b"completion_tokens" => &mut self.completion,
            b"input_tokens" => &mut self.input,
            b"output_tokens" => &mut self.output,
            b"total_tokens" => &mut self.total,
            b"cache_creation_input_tokens" => &mut self.cache_creation,
            b"cache_read_input_tokens" => &mut self.cache_read,
            _ => return,
        };
        *field = value.whole();
    }

    /// What the numbers mean; None if there are none.
    pub(super) fn usage(&self) -> Option<Usage> {
        let output = self.completion.or(self.output);
        let input = self.prompt.or(self.input);
        // Embeddings have no output, and some name only the total.
        let input_of_total = self.total.map(|total| total.saturating_sub(output.unwrap_or(0)));
        let output_of_total = self.total.map(|total| total.saturating_sub(input.unwrap_or(total)));
        // Where they are called prompt tokens, those of the cache are among them. Gateways name them twice.
        let apart = self.prompt.is_none().then_some([self.cache_creation, self.cache_read]);
        let cached = apart.and_then(|both| both.into_iter().flatten().reduce(u64::saturating_add));
        input.or(output).or(self.total).or(cached)?;
        Some(Usage {
            input: input.or(input_of_total).unwrap_or(0),
            output: output.or(output_of_total).unwrap_or(0),
            cached: cached.unwrap_or(0),
        })
    }

    /// Takes in what a later event of an Anthropic stream says. Its counts are sums over the stream, but some
    /// servers say 0 at one end of it; so the larger number holds.
    pub(super) fn raise(&mut self, later: &Self) {
        self.prompt = self.prompt.max(later.prompt);
        self.input = self.input.max(later.input);
        self.cache_creation = self.cache_creation.max(later.cache_creation);
        self.cache_read = self.cache_read.max(later.cache_read);
        self.completion = later.completion.or(self.completion);
        self.output = later.output.or(self.output);
    }
}
