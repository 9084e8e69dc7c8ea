/* fuzz_glob.c - globs against a tiny recursive matcher that says the same in another way.
 *
 * First byte: the pattern's length, as far as the input goes; the text follows the pattern. Both are kept short, as
 * the reference is exponential.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz.h"

FUZZ_INPUT(FUZZ_PLAIN)

enum { GLOB_MAX = 20 };

/* One element of a pattern: the bytes that it takes. Returns its length. */
static size_t element(const uint8_t *p, size_t len, uint8_t takes[256]) {
    memset(takes, p[0] == '?', 256);
    if (p[0] == '?') return 1;
    if (p[0] != '[') {
        size_t escaped = p[0] == '\\' && len > 1;
        takes[p[escaped]] = 1;
        return 1 + escaped;
    }
    size_t at = 1, negate = len > 1 && p[1] == '^';
    for (at += negate; at < len && p[at] != ']';) {
        size_t left = len - at;
        if (p[at] == '\\' && left > 1) {
            takes[p[at + 1]] = 1;
            at += 2;
        } else if (left > 2 && p[at + 1] == '-') {
            int a = p[at] < 128 ? p[at] : p[at] - 256, b = p[at + 2] < 128 ? p[at + 2] : p[at + 2] - 256;
            for (int x = a < b ? a : b; x <= (a < b ? b : a); x++) takes[x & 255] = 1;
            at += 3;
        } else {
            takes[p[at++]] = 1;
        }
    }
    for (size_t i = 0; negate && i < 256; i++) takes[i] = !takes[i];
    return at < len ? at + 1 : at;
}

static int reference(const uint8_t *p, size_t p_len, const uint8_t *t, size_t t_len) {
    uint8_t takes[256];
    if (!p_len) return !t_len;
    if (*p == '*')
        return reference(p + 1, p_len - 1, t, t_len) || (t_len && reference(p, p_len, t + 1, t_len - 1));
    if (!t_len) return 0;
    size_t n = element(p, p_len, takes);
    return takes[*t] && reference(p + n, p_len - n, t + 1, t_len - 1);
}

/* A copy that a sanitizer watches the ends of. */
static char *copy(const uint8_t *data, size_t len) {
    char *p = malloc(len ? len : 1);
    if (!p) abort();
    if (len) memcpy(p, data, len);
    return p;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!size) return 0;
    size_t p_len = data[0] % (GLOB_MAX + 1);
    data++, size--;
    if (p_len > size) p_len = size;
    size_t t_len = size - p_len < GLOB_MAX ? size - p_len : GLOB_MAX, stars = 0;
    for (size_t i = 0; i < p_len; i++) stars += data[i] == '*';
    if (stars > 6) return 0;
    char *pattern = copy(data, p_len), *text = copy(data + p_len, t_len);
    int found = rdbkit_glob_match(pattern, p_len, text, t_len);
    int wanted = reference(data, p_len, data + p_len, t_len);
    if (!t_len && p_len > 1) wanted = 0; /* servers: ** is not for the empty text */
    if (found != wanted) fuzz_fail("glob: found, wanted", found, wanted);
    free(pattern);
    free(text);
    return 0;
}
