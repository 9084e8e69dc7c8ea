/* events.h - a visitor that writes every event as one line of canonical text, or hashes the same.
 *
 * SPDX-License-Identifier: MIT
 *
 * Text is for the golden files (fixtures/<server>/<name>.events), the hash for tests that read one file many thousand
 * times. Both are blind to how a string arrives (whole or in pieces), and to nothing else. The visitor also
 * holds the events against the grammar of rdbkit.h, and raw bytes against the file: a break is told in `fault`.
 */
#ifndef EVENTS_H
#define EVENTS_H

#include "../rdbkit.h"

#define EVENTS_TYPES_MAX 128

typedef struct events {
    /* To be set after events_init(), where wanted. */
    rdbkit_reader *reader;     /* for the offsets where values end */
    int answer;                /* what key and module_aux answer: RDBKIT_OK, _SKIP_KEY or _TAKE_RAW */
    int keys_only;             /* 1: write no elements of values */
    const unsigned char *file; /* what raw bytes are compared with */
    size_t file_len;
    uint64_t stop_at; /* the event of that number (from 1) answers RDBKIT_ERR_STOPPED; 0: none */

    /* Results. */
    uint64_t n;      /* events so far */
    uint64_t keys_n; /* keys so far */
    uint64_t hash;   /* of all events (when not as text) */
    char *text;      /* all lines, terminated (when as text) */
    size_t text_len;
    const char *fault; /* first break of the grammar, or NULL */
    uint64_t fault_off;
    const rdbkit_type *types[EVENTS_TYPES_MAX]; /* rows seen */
    size_t types_n;

    /* Inside. */
    int as_text;
    int out_of_memory;
    size_t text_cap;
    int state;
    int in_header, ended;
    rdbkit_shape shape;
    int have_string;
    uint64_t piece_off, piece_total;
    uint64_t raw_pos;
    uint64_t want_fields, want_groups, want_consumers, want_pending, entries;
    int have_info;
} events;

void events_init(events *e, int as_text);
void events_free(events *e);
rdbkit_visitor events_visitor(events *e);

/* Append the line that ends the text of a reader that failed. */
void events_error(events *e, const rdbkit_error *error);

#endif
