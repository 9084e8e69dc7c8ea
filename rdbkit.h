/* rdbkit.h - read, replay, convert and write Redis and Valkey RDB and append-only files.
 *
 * SPDX-License-Identifier: MIT
 *
 * Copy rdbkit.c and rdbkit.h into a project and link liblzf, zlib and the math library. No network, no server, no
 * global state. What holds unless a declaration says otherwise:
 *
 *   Pointers   are not NULL, and nothing looks whether they are. Four may be: an allocator (malloc then), options (the
 *              defaults then), data of length 0, and a context, which is only passed on. What is given is borrowed for
 *              the call; what a handle gives is its own, and valid as long as it.
 *   Structs    of options, visitors, allocators and spills are copied when a handle is made; what their contexts point
 *              to has to live as long as the handle. Begin with the function _init, or with all zero for a visitor.
 *   Handles    come from a function _new, which returns NULL when out of memory, and go to the one called _free, which
 *              takes NULL, and any handle after any error, but not from inside one of its own callbacks.
 *   Numbers    Lengths and offsets are bytes, indexes begin at 0. Times are Unix times: _ms in milliseconds, _s in
 *              seconds. A flag is an int: 0 is no and the default, any other value is yes.
 *   Threads    Two handles share nothing. One is used on any one thread at a time, and together with those that it was
 *              given: a reader with its sink, filter and input. Callbacks run on that thread, inside the call that
 *              feeds. Constants are for all.
 *   Memory     comes from the handle's allocator (but for what regcomp() and qsort() of the C library take for
 *              themselves), and never by a number that a file states. Buffers grow by doubling.
 *   Time       is constant, or linear in the bytes that are given, read or written, times the logarithm where something
 *              has to be sorted; a replayed command costs what it costs a server.
 *   Versions   Struct sizes and values of enums are part of the binary interface: docs/embedding.md#versions.
 *
 * The picture: a source of events (rdbkit_reader for an RDB; rdbkit_keyspace, into which rdbkit_aof replays append-only
 * files in the order of a rdbkit_manifest), a visitor that receives them, and sinks that are visitors (rdbkit_writer
 * makes an RDB, rdbkit_resp commands, rdbkit_json JSON; rdbkit_check judges). rdbkit_filter and rdbkit_salvage stand
 * between. A complete program:
 *
 *     #include "rdbkit.h"
 *     #include <stdio.h>
 *
 *     static int on_key(void *user, const rdbkit_key *key) {
 *         (void)user;
 *         printf("%.*s\n", (int)key->name.len, key->name.data);
 *         return RDBKIT_SKIP_KEY;
 *     }
 *
 *     int main(void) {
 *         rdbkit_visitor visitor = {0};
 *         visitor.key = on_key;
 *         rdbkit_reader *r = rdbkit_reader_new(NULL, &visitor);
 *         rdbkit_input *in = rdbkit_input_new_fd(NULL, 0);
 *         int st = r && in ? rdbkit_reader_pull(r, in) : RDBKIT_ERR_NOMEM;
 *         if (st < 0) fprintf(stderr, "%s\n", r ? rdbkit_reader_error(r)->message : "out of memory");
 *         rdbkit_input_free(in);
 *         rdbkit_reader_free(r);
 *         return st < 0;
 *     }
 *
 * Format facts here are those of docs/format.md, which names the servers that each was checked on.
 */
#ifndef RDBKIT_H
#define RDBKIT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this header. The number is for #if: MAJOR * 10000 + MINOR * 100 + PATCH, each below 100. */
#define RDBKIT_VERSION_MAJOR 0
#define RDBKIT_VERSION_MINOR 1
#define RDBKIT_VERSION_PATCH 0
#define RDBKIT_VERSION_NUMBER \
    (RDBKIT_VERSION_MAJOR * 10000 + RDBKIT_VERSION_MINOR * 100 + RDBKIT_VERSION_PATCH)
#define RDBKIT_VERSION "0.1.0"

/* What stands before each function; a program may define it as something else. */
#if defined(__GNUC__) && !defined(RDBKIT_API)
#define RDBKIT_API __attribute__((visibility("default")))
#elif !defined(RDBKIT_API)
#define RDBKIT_API
#endif

/* The version of the library in use: RDBKIT_VERSION as it was when that was built. A program that links the shared
 * library may compare the two. Constant, never NULL. */
RDBKIT_API const char *rdbkit_version(void);

/* ---- Status ------------------------------------------------------------------------------------------- */

/* What functions return and what callbacks may answer. Negative codes are errors; the first one stays in its
 * source (reader, input, append-only file, keyspace), and is what later calls return. A sink that has answered one
 * takes no more events. A callback answers RDBKIT_OK to go on and any negative value to stop (RDBKIT_ERR_STOPPED where
 * it has no better one); that value is what the feeding function then returns. To any other answer, but for those of
 * visitor.key and .module_aux, a reader says RDBKIT_ERR_USAGE. */
typedef enum rdbkit_status {
    RDBKIT_OK = 0,       /* done, or to go on */
    RDBKIT_MORE = 1,     /* every byte was taken, and the input is not complete yet */
    RDBKIT_DONE = 2,     /* the input is complete */
    RDBKIT_SKIP_KEY = 3, /* answer of visitor.key: no events for this value, as cheaply as can be */
    RDBKIT_TAKE_RAW = 4, /* answer of visitor.key or .module_aux: give the value as visitor.raw bytes */
    /* The same for visitor.key, with listpack back-lengths as a server reads them: wide is Redis, and Valkey up to
     * 9.0, narrow is Valkey 9.1. They differ for entries of 16383, 2097151 and 268435455 bytes alone. */
    RDBKIT_TAKE_RAW_WIDE = 5,
    RDBKIT_TAKE_RAW_NARROW = 6,
    /* As RDBKIT_TAKE_RAW, of bytes of which only the lengths were looked at: for salvage, see rdbkit_salvage. */
    RDBKIT_TAKE_UNCHECKED = 7,

    RDBKIT_ERR_NOMEM = -1,       /* out of memory */
    RDBKIT_ERR_IO = -2,          /* reading, writing or a spill failed: sys_errno, rdbkit_writer_errno() */
    RDBKIT_ERR_DAMAGED = -3,     /* bytes that no server writes; a string over half the address space */
    RDBKIT_ERR_TRUNCATED = -4,   /* the input ends too early */
    RDBKIT_ERR_UNSUPPORTED = -5, /* a version, type or opcode that this library does not read */
    RDBKIT_ERR_CHECKSUM = -6,    /* the CRC64 at the end differs */
    RDBKIT_ERR_LIMIT = -7,       /* a limit of the options; a command of a log over half the address space */
    RDBKIT_ERR_LOSS = -8,        /* the target cannot hold the data, and loss was not allowed */
    RDBKIT_ERR_STOPPED = -9,     /* a callback asked to stop */
    RDBKIT_ERR_USAGE = -10       /* the call itself is wrong */
} rdbkit_status;

/* A short constant text for a status, "damaged input" for example. status: any number; what is none of the above is
 * "unknown status". Never NULL. */
RDBKIT_API const char *rdbkit_status_text(int status);

/* Bytes, not terminated; any of the 256 values may occur. data may be NULL if len is 0. */
typedef struct rdbkit_str {
    const char *data;
    size_t len;
} rdbkit_str;

#define RDBKIT_NO_DB UINT64_MAX     /* no database: a number that none can have */
#define RDBKIT_NO_OFFSET UINT64_MAX /* no place in the input */

/* What went wrong, and where. It lives in its handle. message holds the whole text, without the file's name:
 * "where: found, wanted", then key and db when they are known; file bytes are escaped in it. As long as code is
 * RDBKIT_OK the message is "", and nothing else means anything. */
typedef struct rdbkit_error {
    int code;             /* a negative rdbkit_status or answer of a callback, or RDBKIT_OK */
    int sys_errno;        /* errno of the failed read, or 0; of a write: rdbkit_writer_errno() and the like */
    uint64_t offset;      /* of the item at fault, bytes from the start of the (decompressed) input */
    uint64_t blob_offset; /* inside the decoded packed blob that stands at offset, or RDBKIT_NO_OFFSET */
    uint64_t db;          /* that was selected there, or RDBKIT_NO_DB */
    const char *type;     /* name of the type, "hash-listpack", or NULL outside a key; constant */
    char key[64];         /* first bytes of the key's name, not terminated */
    uint64_t key_len;     /* its full length; meaningful if type is not NULL */
    char message[480];    /* terminated */
} rdbkit_error;

/* ---- Allocator ---------------------------------------------------------------------------------------- */

/* Memory functions for a handle; copied when it is made. Sizes are bytes. alloc, realloc: what they give is aligned as
 * malloc's; NULL if there is no memory. realloc gets the old size, and must take NULL with old_size 0 as an allocation;
 * where it fails, what was there stays as it was. free gets the size that was asked for, and must take NULL.
 * They are called on the thread that uses the handle, and must not call it. Pass a NULL allocator for malloc and its
 * relatives; the three functions of one that is not NULL are all there. */
typedef struct rdbkit_allocator {
    void *(*alloc)(void *ctx, size_t size);
    void *(*realloc)(void *ctx, void *ptr, size_t old_size, size_t size);
    void (*free)(void *ctx, void *ptr, size_t size);
    void *ctx;
} rdbkit_allocator;

/* ---- Formats: types and targets ----------------------------------------------------------------------- */

/* What a user calls the type of a key (the answer of TYPE). */
typedef enum rdbkit_shape {
    RDBKIT_STRING,
    RDBKIT_LIST,
    RDBKIT_SET,
    RDBKIT_ZSET,
    RDBKIT_HASH,
    RDBKIT_STREAM,
    RDBKIT_MODULE, /* TYPE answers with the name of the module's type */
    RDBKIT_SHAPE_N /* how many there are */
} rdbkit_shape;

/* "string", "list", "set", "zset", "hash", "stream", "module"; "unknown" for any other number. Constant, never NULL. */
RDBKIT_API const char *rdbkit_shape_name(rdbkit_shape shape);

/* Whose numbering a file follows: told by its magic. The same type number may mean different things. Bits, so that a
 * type of both can have both. */
typedef enum rdbkit_lineage {
    RDBKIT_REDIS = 1, /* magic REDIS: all Redis, and Valkey up to 8.1 */
    RDBKIT_VALKEY = 2 /* magic VALKEY: Valkey from 9.0 on */
} rdbkit_lineage;

/* One meaning of a type byte. Constant; pointers to rows may be compared. */
typedef struct rdbkit_type {
    int number;         /* the byte in the file, 0 to 255 */
    unsigned lineage;   /* rdbkit_lineage values, or-ed: the files in which the number means this */
    int rdb_version;    /* first RDB version that has it */
    rdbkit_shape shape; /* what its values are */
    const char *name;   /* "hash-listpack" */
    const char *layout; /* how the bytes lie, in the notation of docs/format.md; NULL: cannot be read */
} rdbkit_type;

/* The rows in order of number: index from 0; NULL past the end. Constant. */
RDBKIT_API const rdbkit_type *rdbkit_type_at(size_t index);

/* What a target server can do, as bits of rdbkit_target.features, and the first version that can. */
enum {
    RDBKIT_F_STREAMS = 1 << 0,          /* Redis 5.0 */
    RDBKIT_F_SET_PXAT = 1 << 1,         /* SET ... PXAT, 6.2 */
    RDBKIT_F_CREATECONSUMER = 1 << 2,   /* XGROUP CREATECONSUMER, 6.2 */
    RDBKIT_F_FUNCTIONS = 1 << 3,        /* 7.0 */
    RDBKIT_F_STREAM_COUNTERS = 1 << 4,  /* entries-added, max-deleted, entries-read, 7.0 */
    RDBKIT_F_FIELD_EXPIRY = 1 << 5,     /* Redis 7.4, Valkey 9.0 */
    RDBKIT_F_RESTORE_ABSTTL = 1 << 6,   /* RESTORE ... ABSTTL, 5.0 */
    RDBKIT_F_IDLE_FREQ = 1 << 7,        /* opcodes 248 and 249, 5.0 */
    RDBKIT_F_MODULE_AUX = 1 << 8,       /* opcode 247, 5.0 */
    RDBKIT_F_FUNCTION_PRE_GA = 1 << 9,  /* opcode 246, 7.0 alone */
    RDBKIT_F_SLOT_INFO = 1 << 10,       /* opcode 244, Redis 7.4 and Valkey 9.0 */
    RDBKIT_F_SLOT_IMPORT = 1 << 11,     /* opcode 243 of Valkey 9.0 */
    RDBKIT_F_FIELD_EXPIRY_46 = 1 << 12, /* HPEXPIREAT takes times below 2^46 ms only: Redis */
    RDBKIT_F_AUX_LUA = 1 << 13          /* compiles the AUX field lua while loading: 4.0 to 6.2 */
};

/* One server release that files can be made for. Constant. */
typedef struct rdbkit_target {
    const char *name;       /* "redis-7.2", "valkey-9" */
    unsigned lineage;       /* which type numbers it knows: one rdbkit_lineage */
    int rdb_version;        /* what it writes, and the version of its DUMP payloads */
    int max_redis_version;  /* highest version that it loads behind the magic REDIS */
    int max_valkey_version; /* behind VALKEY; 0: none */
    int max_type;           /* highest type number that it loads, in its lineage */
    unsigned features;      /* RDBKIT_F_* */
} rdbkit_target;

/* The target of that name: "redis-4.0" ... "valkey-9"; "redis-7" and the like mean the newest of the line,
 * "redis-8.2", "redis-8.4" and "valkey-9.1" what loads the same files, "rdb-8" ... "rdb-12" the newest Redis that
 * writes that version. name: terminated, in lower case; may be NULL. NULL: no such target. Constant. */
RDBKIT_API const rdbkit_target *rdbkit_target_find(const char *name);

/* The targets, oldest Redis first, then Valkey: index from 0; NULL past the end. Constant. */
RDBKIT_API const rdbkit_target *rdbkit_target_at(size_t index);

/* Whether a target loads a type: 1 or 0, by number and lineage; 0 for a type that cannot be read. */
RDBKIT_API int rdbkit_target_loads(const rdbkit_target *target, const rdbkit_type *type);

/* ---- Events ------------------------------------------------------------------------------------------- */

#define RDBKIT_NO_EXPIRY (-1) /* as the format has it: -1 is "none" from Redis 5.0 on */
#define RDBKIT_NO_HINT (-1)   /* neither idle time nor frequency is in the file */

/* The first nine bytes of an RDB: magic and version. */
typedef struct rdbkit_header {
    rdbkit_lineage lineage;
    int rdb_version; /* 1 to 12 behind REDIS, 80 behind VALKEY */
} rdbkit_header;

/* A key, before its value. */
typedef struct rdbkit_key {
    rdbkit_str name;     /* borrowed until the callback returns */
    rdbkit_str raw_name; /* the same as it stands in the file, an RDB string; len 0 if a filter changed it */
    const rdbkit_type *type; /* constant; of a replayed value without bytes: one that can hold it */
    const char *module;      /* name of a module value's type, terminated, or NULL; borrowed like name */
    uint64_t db;             /* 0 to RDBKIT_NO_DB - 1 */
    int64_t expire_ms;       /* unix time, RDBKIT_NO_EXPIRY if none; may lie in the past */
    int64_t idle_s;          /* LRU idle time in seconds, 0 or more, or RDBKIT_NO_HINT */
    int lfu_freq;            /* LFU counter 0..255, or RDBKIT_NO_HINT */
    /* Of the record: its first prefix opcode, else its type byte. 0: the value has no bytes (a replayed keyspace, a
     * program's own events), and cannot be taken raw. */
    uint64_t offset;
    uint64_t value_off; /* of the first byte after the key's name */
} rdbkit_key;

/* The ID of a stream's entry, "ms-seq". */
typedef struct rdbkit_stream_id {
    uint64_t ms;  /* unix time of the server that made it, unless a client chose it */
    uint64_t seq; /* number in that millisecond */
} rdbkit_stream_id;

/* Comes after the entries. Files below RDB 10 have no counters: then has_counters is 0, and the three fields
 * hold what a server of 7.0 or later makes of such a file while it loads it; of a replayed log of such a server
 * they hold what the replay counted. */
typedef struct rdbkit_stream_info {
    uint64_t length;              /* live entries */
    rdbkit_stream_id last_id;     /* last-generated-id */
    rdbkit_stream_id first_id;    /* of the first live entry; 0-0 if there is none */
    rdbkit_stream_id max_deleted; /* max-deleted-entry-id */
    uint64_t entries_added;       /* all that ever were, deleted ones too */
    uint64_t groups;              /* that follow */
    int has_counters;             /* 1: the source has first_id, max_deleted and entries_added */
} rdbkit_stream_info;

#define RDBKIT_ENTRIES_READ_UNKNOWN (-1) /* as the format has it: the server did not know */

/* A consumer group; its consumers follow. */
typedef struct rdbkit_stream_group {
    rdbkit_str name;
    rdbkit_stream_id last_id; /* last-delivered-id */
    int64_t entries_read; /* or RDBKIT_ENTRIES_READ_UNKNOWN; what a server estimates if the file has none */
    uint64_t pending;     /* entries in the group's list */
    uint64_t consumers;   /* that follow */
} rdbkit_stream_group;

/* A consumer of the last group; its pending entries follow. */
typedef struct rdbkit_stream_consumer {
    rdbkit_str name;
    int64_t seen_ms;   /* unix time */
    int64_t active_ms; /* unix time, -1: never; the same as seen_ms where the file has none */
    uint64_t pending;  /* entries that follow */
} rdbkit_stream_consumer;

/* An entry that the last consumer was given, and has not acknowledged. */
typedef struct rdbkit_stream_pending {
    rdbkit_stream_id id;     /* the entry itself may be deleted meanwhile */
    int64_t delivery_ms;     /* unix time of the last delivery */
    uint64_t delivery_count; /* how often it was delivered */
} rdbkit_stream_pending;

/* Data that a module keeps outside of keys. */
typedef struct rdbkit_module_aux {
    uint64_t id;          /* as it stands in the file: name and encoding version in one; below 2^64 - 1 */
    char module[10];      /* name of the module's type, terminated */
    int encoding_version; /* 0..1023 */
    int when;             /* 1 before the keys, 2 after them */
} rdbkit_module_aux;

/* Receives events; user is passed to each, and may be NULL. A NULL member is an event that is not wanted. All pointers
 * and slices are borrowed until the callback returns. No callback may call the reader that calls it, except
 * rdbkit_reader_offset(). The order is
 *
 *     file   = header *( aux | function | module_aux *raw module_aux_end | resize | slot_info | slot_import
 *                      | db | value ) end
 *     value  = key [ raw* | string | *string_piece | *list_item | *set_member | *zset_member | *hash_field
 *                  | *( stream_entry *stream_field ) stream_info *group ] key_end
 *     group  = stream_group *( stream_consumer *stream_pending )
 *
 * where db comes when a file selects a database, string_piece instead of string for an uncompressed string value longer
 * than options.piece_len, if the visitor has string_piece at all, and raw after RDBKIT_TAKE_RAW and its relatives. raw
 * bytes are those after the key's name, checked as if they were decoded. After RDBKIT_SKIP_KEY only key_end follows,
 * and a module value has no events but raw. A packed value is checked whole before its first element is given out. */
typedef struct rdbkit_visitor {
    void *user;
    int (*header)(void *user, const rdbkit_header *header);
    /* A field about the file or its server, "redis-ver" for example. */
    int (*aux)(void *user, rdbkit_str name, rdbkit_str value);
    /* A library's source, with its #! line. opcode: 245, or 246 for the form of the 7.0 release candidates, which
     * has been turned into the other as 7.0 does it. */
    int (*function)(void *user, rdbkit_str code, int opcode);
    /* May answer RDBKIT_TAKE_RAW, to get the data; after any other answer they are stepped over. */
    int (*module_aux)(void *user, const rdbkit_module_aux *aux);
    int (*module_aux_end)(void *user);
    /* The keys that follow are in database db: 0 to RDBKIT_NO_DB - 1; 0 before the first one. */
    int (*db)(void *user, uint64_t db);
    /* Hints of how many keys will come, and of these how many that expire, of the database or of a cluster slot: nobody
     * checks them. */
    int (*resize)(void *user, uint64_t keys, uint64_t expires);
    int (*slot_info)(void *user, uint64_t slot, uint64_t keys, uint64_t expires);
    /* An import of slots that was not at its end. job: 40 bytes. ranges: how many it has; they are not given out. */
    int (*slot_import)(void *user, rdbkit_str job, uint64_t ranges);
    /* May answer RDBKIT_SKIP_KEY or one of RDBKIT_TAKE_*, too. */
    int (*key)(void *user, const rdbkit_key *key);
    /* The next len bytes of a value or of module data: any number of times. */
    int (*raw)(void *user, const void *data, size_t len);
    int (*string)(void *user, rdbkit_str value);
    /* One part of a string of total_len bytes, which begins at its byte piece_off: all parts, in their order. */
    int (*string_piece)(void *user, rdbkit_str piece, uint64_t piece_off, uint64_t total_len);
    int (*list_item)(void *user, rdbkit_str item); /* from head to tail */
    int (*set_member)(void *user, rdbkit_str member);
    /* score: infinite too; NaN from a damaged file, unless options.deep refuses it. */
    int (*zset_member)(void *user, rdbkit_str member, double score);
    /* expire_ms: of the field, unix time, or RDBKIT_NO_EXPIRY. */
    int (*hash_field)(void *user, rdbkit_str field, rdbkit_str value, int64_t expire_ms);
    /* A live entry. fields: how many follow, each with its value. */
    int (*stream_entry)(void *user, rdbkit_stream_id id, uint64_t fields);
    int (*stream_field)(void *user, rdbkit_str field, rdbkit_str value);
    int (*stream_info)(void *user, const rdbkit_stream_info *info);
    int (*stream_group)(void *user, const rdbkit_stream_group *group);
    int (*stream_consumer)(void *user, const rdbkit_stream_consumer *consumer);
    int (*stream_pending)(void *user, const rdbkit_stream_pending *pending);
    int (*key_end)(void *user); /* the value is complete, and sound as far as it was looked at */
    /* checksum: 1 verified, 0 none in the file or not looked at. */
    int (*end)(void *user, int checksum);
} rdbkit_visitor;

/* ---- Input -------------------------------------------------------------------------------------------- */

/* A source of bytes for rdbkit_reader_pull() and rdbkit_aof_pull(). Input that begins with the two bytes of gzip (RFC
 * 1952) is decompressed on the way, several members too; what follows the last one is ignored. */
typedef struct rdbkit_input rdbkit_input;

/* Read up to size bytes, 1 to 65536, into buf: returns how many, 0 at the end, or a negative errno, which ends the
 * input. It may be asked once more after an end. EINTR is the function's own business; a short read is fine. */
typedef ptrdiff_t (*rdbkit_read_fn)(void *ctx, void *buf, size_t size);

/* Make an input from a function, a file descriptor (borrowed, read with read() from where it stands; it has to block,
 * as EAGAIN is an error like others) or memory (len bytes, borrowed until the input is freed). Nothing is read yet.
 * Returns NULL when out of memory, or if there is no function. Memory: 65 KiB once it is read, 170 KiB for gzip;
 * without gzip none for memory. */
RDBKIT_API rdbkit_input *rdbkit_input_new(const rdbkit_allocator *allocator, rdbkit_read_fn read, void *ctx);
RDBKIT_API rdbkit_input *rdbkit_input_new_fd(const rdbkit_allocator *allocator, int fd);
RDBKIT_API rdbkit_input *rdbkit_input_new_memory(const rdbkit_allocator *allocator, const void *data,
                                                 size_t len);
RDBKIT_API void rdbkit_input_free(rdbkit_input *in);

/* Bytes taken from the source so far, before decompression: for progress. It is ahead of the events:
 * by up to 64 KiB, of memory by up to 1 GiB. */
RDBKIT_API uint64_t rdbkit_input_offset(const rdbkit_input *in);

/* Whether the input turned out to be gzip: 1 or 0; known once the first bytes were read, 0 before. */
RDBKIT_API int rdbkit_input_is_gzip(const rdbkit_input *in);

/* ---- Reader ------------------------------------------------------------------------------------------- */

/* What reads one RDB, of whatever server, and gives events to a visitor. */
typedef struct rdbkit_reader rdbkit_reader;

/* How to read. All zero is the default. */
typedef struct rdbkit_reader_options {
    const rdbkit_allocator *allocator; /* NULL: malloc; copied */
    int ignore_checksum;               /* 1: do not compute the CRC64, nor look at it */
    /* 1: also refuse what only some servers refuse, or only with sanitize-dump-payload yes: wrong stream counts,
     * pending entries with no owner or two, unsorted intsets and field expiries, empty collections, NaN scores.
     * (Duplicate fields and members are for rdbkit_check.) */
    int deep;
    /* Bytes over which an uncompressed string value comes in pieces, to a visitor that has string_piece. 0, the
     * default: never. */
    size_t piece_len;
    /* Bytes over which a string (a name, or compressed, or in pieces, too) or packed blob is RDBKIT_ERR_LIMIT. What is
     * skipped or taken unchecked is not measured, and of module values no more than compressed strings. 0, the default:
     * no limit. */
    uint64_t max_item_len;
    /* Called with a copy of each key before visitor.key: it may change name (its own memory, until the next call),
     * db and expire_ms. Answers RDBKIT_OK, RDBKIT_SKIP_KEY (the visitor hears nothing of the key), no other above 0, or
     * a negative value to stop. rdbkit_filter_apply() is made for it. NULL, the default: none. */
    int (*key_filter)(void *ctx, rdbkit_key *key);
    void *key_filter_ctx; /* its ctx */
} rdbkit_reader_options;

/* Fill in the defaults: all zero. */
RDBKIT_API void rdbkit_reader_options_init(rdbkit_reader_options *options);

/* Make a reader for one RDB. visitor: copied; NULL or all NULL just checks. Returns NULL when out of memory. Memory: 40
 * KiB; once or twice the largest string or packed blob that has to be whole, if it does not lie in one piece of input,
 * and once or twice what a compressed one holds; 40 to 80 bytes for each pending entry of one stream group. */
RDBKIT_API rdbkit_reader *rdbkit_reader_new(const rdbkit_reader_options *options,
                                            const rdbkit_visitor *visitor);
RDBKIT_API void rdbkit_reader_free(rdbkit_reader *r);

/* Give the next bytes of the input to a reader.
 * r: not inside one of its callbacks. buf: len bytes, borrowed for the call, may be NULL if len is 0.
 * len: any size; 0 changes nothing.
 * Returns RDBKIT_MORE (all taken, input incomplete), RDBKIT_DONE (the RDB ended; rdbkit_reader_offset() is
 * the offset of the first byte after it, which may lie before the end of buf), or a negative code that stays: any of
 * RDBKIT_ERR_*, or what a callback answered. Once it has been RDBKIT_DONE nothing more is taken.
 * Events: any number, on this thread, before it returns. Errors: see rdbkit_reader_error(). */
RDBKIT_API int rdbkit_reader_feed(rdbkit_reader *r, const void *buf, size_t len);

/* Say that there is no more input. Returns RDBKIT_DONE or a negative code that stays: RDBKIT_ERR_TRUNCATED if the RDB
 * was not complete, with the offset of the item that is cut. No events. */
RDBKIT_API int rdbkit_reader_finish(rdbkit_reader *r);

/* Read the whole of an input, and finish. r: not inside one of its callbacks. Returns RDBKIT_DONE or a negative code as
 * rdbkit_reader_feed() and rdbkit_reader_finish(), or what the input ran into: RDBKIT_ERR_IO (sys_errno of the error),
 * RDBKIT_ERR_NOMEM, and of gzip RDBKIT_ERR_DAMAGED and RDBKIT_ERR_TRUNCATED. What follows the RDB is left in the input,
 * see rdbkit_input_rest(). Events: as rdbkit_reader_feed(). */
RDBKIT_API int rdbkit_reader_pull(rdbkit_reader *r, rdbkit_input *in);

/* Give the bytes that follow what a reader took from an input, decompressed; of an input that was not read yet, all.
 * *data is borrowed until the next call. Returns RDBKIT_OK with *len > 0, or, with nothing to be used in *data and
 * *len, RDBKIT_DONE at the end or a negative code that stays, as rdbkit_reader_pull(); the errno is not to be had. */
RDBKIT_API int rdbkit_input_rest(rdbkit_input *in, const void **data, size_t *len);

/* Bytes of the (decompressed) input that were consumed: inside key and key_end, the offset where the value
 * begins and ends. May be called inside a callback. */
RDBKIT_API uint64_t rdbkit_reader_offset(const rdbkit_reader *r);

/* Keys seen so far, those that a filter held back too; inside visitor.key with the one at hand. */
RDBKIT_API uint64_t rdbkit_reader_keys(const rdbkit_reader *r);

/* Whether the RDB ended with a checksum that was looked at and is right: 1 or 0. */
RDBKIT_API int rdbkit_reader_verified(const rdbkit_reader *r);

/* The first error, or one with code RDBKIT_OK, which becomes it. Valid as long as r. */
RDBKIT_API const rdbkit_error *rdbkit_reader_error(const rdbkit_reader *r);

/* ---- Losses ------------------------------------------------------------------------------------------- */

/* What a target may not be able to hold. A loss makes a conversion fail with RDBKIT_ERR_LOSS unless losses
 * are allowed; a note (from RDBKIT_NOTE_PENDING_GONE on) never does. docs/loss.md has the whole table. */
typedef enum rdbkit_loss_kind {
    RDBKIT_LOSS_STREAM,           /* the key is left out: the target has no streams */
    RDBKIT_LOSS_STREAM_COUNTERS,  /* entries-added, max-deleted or entries-read that cannot be rebuilt */
    RDBKIT_LOSS_ACTIVE_TIME,      /* of consumers; files below RDB 11 have the time they were seen alone */
    RDBKIT_LOSS_FIELD_EXPIRY,     /* hash fields are kept, and live for ever */
    RDBKIT_LOSS_FUNCTION,         /* the library is left out */
    RDBKIT_LOSS_MODULE,           /* the key is left out: larger than what RESTORE takes */
    RDBKIT_LOSS_NAN_SCORE,        /* the member is left out: no server takes NaN */
    RDBKIT_LOSS_STREAM_ENTRY,     /* an entry without fields is left out: no command makes one */
    RDBKIT_NOTE_PENDING_GONE,     /* pending entry whose message is deleted: no command makes one */
    RDBKIT_NOTE_MODULE_VALUE,     /* carried as RESTORE: the target needs that module */
    RDBKIT_NOTE_MODULE_AUX,       /* module data outside of keys: no command carries it */
    RDBKIT_NOTE_DB_NUMBER,        /* a database above 15: the target needs a higher `databases` */
    RDBKIT_NOTE_SLOT_IMPORT,      /* an unfinished slot import is left out */
    RDBKIT_NOTE_DROPPED_MODULE,   /* drop_modules: the key, or the module data outside of keys, is left out */
    RDBKIT_NOTE_DROPPED_FUNCTION, /* drop_functions: the library is left out */
    RDBKIT_LOSS_KIND_N            /* how many there are */
} rdbkit_loss_kind;

/* Losses of one kind. key: the first key concerned (or a function's or module's name), up to 64 bytes. */
typedef struct rdbkit_loss {
    rdbkit_loss_kind kind;
    const char *name; /* "field-expiry"; constant */
    const char *text; /* what is lost and what is kept, one line; constant */
    int is_note;      /* 1: a note, 0: a loss */
    uint64_t keys;    /* keys (functions, libraries, databases) concerned, at least 1 */
    uint64_t items;   /* fields, groups, members, (pending) entries concerned, else as keys */
    uint64_t db;      /* of the first key, or RDBKIT_NO_DB */
    uint64_t key_len; /* of the whole name */
    char key[64];     /* its first bytes, not terminated */
} rdbkit_loss;

/* What is lost of one key (function library, module, database), of one kind. */
typedef struct rdbkit_key_loss {
    const rdbkit_loss *row; /* its kind, name, text and is_note; constant, nothing is counted there */
    /* Whole name as it goes out (or the library's, the module's); of a database: of its first key. */
    rdbkit_str key;
    uint64_t db;    /* or RDBKIT_NO_DB: functions, module data */
    uint64_t items; /* fields, groups, members or (pending) entries, at least 1 */
} rdbkit_key_loss;

/* Hear of losses one key at a time. ctx: as given in the options. loss and what it points to: borrowed until the
 * function returns, but for row.
 * A sink calls it from inside its own callbacks, once for each key and kind, when all that is lost of the key is
 * known; at once if the loss is what ends the work; not for a key in whose middle an error comes. It must not call
 * the sink. */
typedef void (*rdbkit_loss_fn)(void *ctx, const rdbkit_key_loss *loss);

/* ---- Output ------------------------------------------------------------------------------------------- */

/* Take all of len bytes, at least 1; data is borrowed for the call. Returns 0, or a negative errno, which ends the work
 * with RDBKIT_ERR_IO; it is not called again then. EINTR and short writes are the function's own business. */
typedef int (*rdbkit_write_fn)(void *ctx, const void *data, size_t len);

/* Room on disk for what may grow large: 12 bytes for each key of a check, a large collection that is encoded anew.
 * write appends len bytes; read gives back all of len bytes from offset, counted from the first that was written; reset
 * forgets everything (may be NULL: then it only grows, and has to be empty when it is handed over). All return 0 or a
 * negative errno, which is RDBKIT_ERR_IO; what errno it was is not kept. data is borrowed for the call. One spill
 * serves one handle at a time. */
typedef struct rdbkit_spill {
    int (*write)(void *ctx, const void *data, size_t len);
    int (*read)(void *ctx, uint64_t offset, void *data, size_t len);
    void *ctx;
    int (*reset)(void *ctx);
} rdbkit_spill;

/* ---- RDB out ------------------------------------------------------------------------------------------ */

/* A sink that writes an RDB file: of the events of a reader, or of a program that calls the visitor's functions
 * itself to make one from nothing, in the order of the grammar above (header is not needed, but for a writer with
 * target NULL). In a key for that purpose type says the shape, and for a hash whose fields expire has to be one that
 * can hold that; raw_name.len and offsets are 0, no expiry and no hint are RDBKIT_NO_EXPIRY and RDBKIT_NO_HINT. A key
 * without elements is left out, unless it is a string or a stream. Errors: RDBKIT_ERR_IO, RDBKIT_ERR_NOMEM,
 * RDBKIT_ERR_LOSS, and RDBKIT_ERR_USAGE for events without a header where it is needed. */
typedef struct rdbkit_writer rdbkit_writer;

/* How to write. */
typedef struct rdbkit_writer_options {
    const rdbkit_allocator *allocator; /* NULL: malloc; copied */
    /* The server that will load it. NULL: as the input, version and magic, by the event header; a keyspace gives that
     * only if it took in an RDB. Default: valkey-8.1. */
    const rdbkit_target *target;
    const rdbkit_spill *spill; /* for collections over 1 MiB that are encoded anew; NULL: memory; copied */
    int no_compress;           /* 1: no LZF for what is encoded */
    int reencode;              /* 1: no value goes through as it is, all are encoded as the target would */
    int allow_loss;            /* 0: the first loss ends with RDBKIT_ERR_LOSS */
    int drop_modules;          /* 1: leave module values and module data out, with a note */
    int drop_functions;        /* 1: leave function libraries out, with a note instead of a loss */
    int same_keys;             /* 1: nothing is filtered, so that the input's key counts hold */
    int aof_base;              /* 1: to be the base of an append-only file, and to say so as servers do */
    rdbkit_loss_fn on_loss;    /* hears of each key that loses something; NULL: not wanted */
    void *on_loss_ctx;         /* its ctx */
} rdbkit_writer_options;

/* Fill in the defaults: the target, else zero. */
RDBKIT_API void rdbkit_writer_options_init(rdbkit_writer_options *options);

/* Make a writer for one file. write, ctx: where the bytes go, in blocks of up to 256 KiB, or larger for a string that
 * is; the file is complete when the end event has returned RDBKIT_OK. Returns NULL when out of memory. Memory: 600 KiB,
 * 1 MiB of a large collection (all of it without a spill), and whole: hashes with field expiry over 512 fields for
 * Redis, pending entries of one stream group, once or twice the largest string that is encoded. */
RDBKIT_API rdbkit_writer *rdbkit_writer_new(const rdbkit_writer_options *options, rdbkit_write_fn write,
                                            void *ctx);
RDBKIT_API void rdbkit_writer_free(rdbkit_writer *w);

/* The visitor to hand to a reader (whatever its piece_len: strings come whole), or to call. Valid as long as w. After an
 * error inside a key, a function or the like no more of them is taken, nor end (RDBKIT_ERR_USAGE): the file cannot
 * become a whole one any more. */
RDBKIT_API const rdbkit_visitor *rdbkit_writer_visitor(rdbkit_writer *w);

/* The losses found so far: one a kind, in the order of rdbkit_loss_kind. index: from 0; NULL past the end. Valid until
 * the next event. */
RDBKIT_API const rdbkit_loss *rdbkit_writer_loss(const rdbkit_writer *w, size_t index);

/* errno of the write that failed; 0 if none did, or if it was a spill that failed. */
RDBKIT_API int rdbkit_writer_errno(const rdbkit_writer *w);

/* ---- Commands out ------------------------------------------------------------------------------------- */

/* A sink that turns events into commands of the Redis protocol, for redis-cli --pipe: docs/resp.md. Errors:
 * RDBKIT_ERR_IO, RDBKIT_ERR_NOMEM, RDBKIT_ERR_LOSS. */
typedef struct rdbkit_resp rdbkit_resp;

/* Which commands. */
typedef struct rdbkit_resp_options {
    const rdbkit_allocator *allocator; /* NULL: malloc; copied */
    const rdbkit_target *target;       /* the server that will read them, not NULL. Default: valkey-8.1 */
    /* 1: each value whole, as RESTORE with a payload that the target loads; one over 512 MiB as commands. Memory: once
     * or twice the largest value that goes through as it is. */
    int restore;
    const rdbkit_spill *spill; /* for collections over 1 MiB that are encoded anew; NULL: memory; copied */
    unsigned batch;     /* elements in one command, 1 to 100000. Default 64, as the servers' own rewrite */
    int del_first;      /* 1: DEL before each key */
    int replace;        /* 1: overwrite: REPLACE for RESTORE and FUNCTION LOAD, DEL before other values */
    int single_db;      /* 1: no SELECT: all keys into the database of the connection */
    int drop_modules;   /* 1: leave module values and module data out, with a note */
    int drop_functions; /* 1: leave function libraries out, with a note instead of a loss */
    int allow_loss;     /* 0: the first loss ends with RDBKIT_ERR_LOSS, except in a dry run */
    int dry_run;        /* 1: write nothing, read on, collect the losses */
    int rewrite;        /* 1: as a server rewrites its append-only file: SET without time, then PEXPIREAT */
    rdbkit_loss_fn on_loss; /* hears of each key that loses something; NULL: not wanted */
    void *on_loss_ctx;      /* its ctx */
} rdbkit_resp_options;

/* Fill in the defaults: target and batch, else zero. */
RDBKIT_API void rdbkit_resp_options_init(rdbkit_resp_options *options);

/* Make a sink. write, ctx: where the bytes go, in blocks of 128 to 256 KiB, the last one less, that end with a whole
 * command if it is not over 128 KiB itself; in a dry run it is not called, and has to be there. Returns NULL when out
 * of memory, or when target is NULL or batch out of range. Memory: 260 KiB, the names of one key, group and consumer,
 * and with restore as a writer, too. */
RDBKIT_API rdbkit_resp *rdbkit_resp_new(const rdbkit_resp_options *options, rdbkit_write_fn write, void *ctx);
RDBKIT_API void rdbkit_resp_free(rdbkit_resp *s);

/* The visitor to hand to a reader (with piece_len of 64 KiB, so that large strings pass in constant memory; with
 * restore they come whole). Valid as long as s. */
RDBKIT_API const rdbkit_visitor *rdbkit_resp_visitor(rdbkit_resp *s);

/* Write out what is buffered, whole commands alone. Call it at the end, after an error too: the commands before
 * the key at fault are complete, unless it was a write that failed. Returns RDBKIT_OK, or RDBKIT_ERR_IO if a write
 * failed, now or before: rdbkit_resp_errno(). */
RDBKIT_API int rdbkit_resp_finish(rdbkit_resp *s);

/* As rdbkit_writer_loss(). */
RDBKIT_API const rdbkit_loss *rdbkit_resp_loss(const rdbkit_resp *s, size_t index);

/* As rdbkit_writer_errno(). */
RDBKIT_API int rdbkit_resp_errno(const rdbkit_resp *s);

/* ---- JSON out ----------------------------------------------------------------------------------------- */

/* A sink that turns events into JSON: an array of records, or one record a line. docs/json.md has the format. */
typedef struct rdbkit_json rdbkit_json;

/* How the bytes of names, elements and values become JSON strings. */
typedef enum rdbkit_json_encoding {
    /* Valid UTF-8 as it is, other bytes as "base64:..."; "utf8:" before text that begins like a mark. */
    RDBKIT_JSON_AUTO,
    RDBKIT_JSON_UTF8,      /* loses data: what is not valid UTF-8 becomes U+FFFD */
    RDBKIT_JSON_BASE64,    /* every one as base64, without a mark */
    RDBKIT_JSON_LATIN1,    /* each byte as the code point of that number */
    RDBKIT_JSON_ENCODING_N /* how many there are */
} rdbkit_json_encoding;

/* How to write JSON. All zero is the default. */
typedef struct rdbkit_json_options {
    const rdbkit_allocator *allocator; /* NULL: malloc; copied */
    int lines;                         /* 1: one record a line (JSON lines), no array around them */
    rdbkit_json_encoding encoding;     /* default RDBKIT_JSON_AUTO */
} rdbkit_json_options;

/* Fill in the defaults. */
RDBKIT_API void rdbkit_json_options_init(rdbkit_json_options *options);

/* Make a sink. write, ctx: where the bytes go, in blocks of up to 256 KiB, or larger for a string that is, that end
 * anywhere. Returns NULL when out of memory or when encoding is out of range. Memory: 256 KiB, plus once or twice the
 * names of the fields of one hash that expire, and 16 bytes for each. */
RDBKIT_API rdbkit_json *rdbkit_json_new(const rdbkit_json_options *options, rdbkit_write_fn write, void *ctx);
RDBKIT_API void rdbkit_json_free(rdbkit_json *s);

/* The visitor to hand to a reader, whose piece_len has to be 0: a string in pieces is RDBKIT_ERR_USAGE. Events have
 * to come in the order of rdbkit_visitor. Valid as long as s. Errors: RDBKIT_ERR_IO, RDBKIT_ERR_NOMEM. */
RDBKIT_API const rdbkit_visitor *rdbkit_json_visitor(rdbkit_json *s);

/* Write out what is buffered. Call it at the end, after an error too. The array is closed only if the event end came,
 * so that half a document cannot be taken for a whole one. Returns RDBKIT_OK, or RDBKIT_ERR_IO if a write failed, now
 * or before. */
RDBKIT_API int rdbkit_json_finish(rdbkit_json *s);

/* As rdbkit_writer_errno(). */
RDBKIT_API int rdbkit_json_errno(const rdbkit_json *s);

/* ---- Filters and transforms ---------------------------------------------------------------------------- */

/* Which keys of a source go on, and under what name, database and expiry. Hand rdbkit_filter_apply and the handle
 * to a reader as options.key_filter and options.key_filter_ctx; one filter serves one reader at a time. The kinds
 * are patterns, exact names, shapes, databases, slots, expiry; a key has to pass every kind that was asked for
 * (AND), and passes a kind by any one of its values (OR) and none of those with negate. Filters see the key as it
 * is in the file; transforms come after all of them. The fields of a hash keep their own expiry in any case. Time of a
 * key: the rules (but exact names, shapes and slots are one each), and its name for each pattern. */
typedef struct rdbkit_filter rdbkit_filter;

/* Make a filter that lets every key through as it is. Returns NULL when out of memory. Memory: 3 KiB, the texts given,
 * the longest name, and for each name of rdbkit_filter_key_name() 40 to 80 bytes besides once or twice its own (half
 * more for moments, while tables grow). When it is freed the reader must be done with it. */
RDBKIT_API rdbkit_filter *rdbkit_filter_new(const rdbkit_allocator *allocator);
RDBKIT_API void rdbkit_filter_free(rdbkit_filter *f);

/* The functions that add something copy it, and return RDBKIT_OK, RDBKIT_ERR_NOMEM or RDBKIT_ERR_USAGE (an
 * argument out of range); then the filter is as it was. negate: a flag, 1 for what is not wanted. */

/* A glob that key names are held against, see rdbkit_glob_match(). pattern: len bytes, may be NULL if len is 0.
 * Globs and regular expressions are one kind. */
RDBKIT_API int rdbkit_filter_key(rdbkit_filter *f, const char *pattern, size_t len, int negate);

/* A POSIX extended regular expression, found anywhere in a name unless ^ and $ say otherwise. pattern: terminated.
 * RDBKIT_ERR_USAGE if it does not compile. regexec() wants terminated text: a name counts up to its first NUL
 * byte. Bytes are characters as the process's locale has it, which is one to one unless setlocale() was called.
 * The C library's regcomp() and regexec() use malloc, and may take long for patterns with back-references. */
RDBKIT_API int rdbkit_filter_key_regex(rdbkit_filter *f, const char *pattern, int negate);

/* One of the names that are wanted, exactly: len bytes, may be NULL if len is 0, which is the key "". A hash set:
 * constant time each, for millions. A kind of its own: a key must be named and match the patterns, if any. */
RDBKIT_API int rdbkit_filter_key_name(rdbkit_filter *f, const char *name, size_t len);

/* Shapes that are wanted, or not wanted: 1u << RDBKIT_HASH and so on, or-ed, at least one. A hash is a hash, with
 * or without field expiry. */
RDBKIT_API int rdbkit_filter_shapes(rdbkit_filter *f, unsigned shape_bits, int negate);

/* Databases first to last, both included; last at least first, below RDBKIT_NO_DB. */
RDBKIT_API int rdbkit_filter_db(rdbkit_filter *f, uint64_t first, uint64_t last, int negate);

/* Cluster slots first to last, both included, last at least first and at most 16383. The slot of a name is that
 * of CLUSTER KEYSLOT: CRC16 of the name, or of its hash tag between the first { and the next }. */
RDBKIT_API int rdbkit_filter_slot(rdbkit_filter *f, unsigned first, unsigned last);

/* Conditions on a key's expiry; all that are given must hold. */
enum {
    RDBKIT_ONLY_EXPIRED = 1 << 0, /* has an expiry before now_ms: a master that loads the file drops it */
    RDBKIT_NO_EXPIRED = 1 << 1,   /* has none, or one at or after now_ms */
    RDBKIT_HAS_TTL = 1 << 2,      /* has an expiry, past or not */
    RDBKIT_NO_TTL = 1 << 3        /* has none */
};

/* Set the conditions, in place of those of an earlier call. which: the bits above, or-ed; 0: none; others mean nothing.
 * now_ms: unix time in milliseconds, looked at by the first two alone. */
RDBKIT_API void rdbkit_filter_expiry(rdbkit_filter *f, unsigned which, int64_t now_ms);

/* Let so many keys through at most, the first ones; 0: none at all. Default: any number. */
RDBKIT_API void rdbkit_filter_limit(rdbkit_filter *f, uint64_t keys);

/* Transforms. Two keys may come to have the same name and database: nothing here notices, rdbkit_check does. */

/* Put the keys of database from into database to, both below RDBKIT_NO_DB. Each key is mapped once: 0 to 1 and 1
 * to 0 swaps them. RDBKIT_ERR_USAGE if from has been mapped already. */
RDBKIT_API int rdbkit_filter_map_db(rdbkit_filter *f, uint64_t from, uint64_t to);

/* Names that begin with old_name begin with new_name instead: the first rule that applies, once. Either may be
 * empty, and then NULL; an empty old_name applies to all. Cluster slots may change with the name. */
RDBKIT_API int rdbkit_filter_rename(rdbkit_filter *f, const char *old_name, size_t old_len,
                                    const char *new_name, size_t new_len);

/* Take the expiry off every key. Wins over rdbkit_filter_shift_ttl(). */
RDBKIT_API void rdbkit_filter_strip_ttl(rdbkit_filter *f);

/* Move every expiry by ms milliseconds, back if negative; calls do not add up, the last one counts. A key without
 * expiry stays without. Stops at the ends of int64_t; -1, which would mean "no expiry", becomes -2. */
RDBKIT_API void rdbkit_filter_shift_ttl(rdbkit_filter *f, int64_t ms);

/* Judge a key, and transform it if it passes. filter: a rdbkit_filter. key: name, type, db and expire_ms are looked at,
 * all but type may be changed, and only if it passes; its name then may lie in the filter's memory, valid until the
 * next call with the filter. Returns RDBKIT_OK, RDBKIT_SKIP_KEY, or RDBKIT_ERR_NOMEM. */
RDBKIT_API int rdbkit_filter_apply(void *filter, rdbkit_key *key);

/* Keys let through since the filter was made or restarted. */
RDBKIT_API uint64_t rdbkit_filter_matched(const rdbkit_filter *f);

/* Forget the keys let through, so that the limit counts anew: before another pass, or another file. */
RDBKIT_API void rdbkit_filter_restart(rdbkit_filter *f);

/* Whether a text matches a glob, as KEYS and SCAN of the servers have it: 1 or 0. Bytes, NUL is one like any
 * other; either may be NULL if its length is 0.
 *
 *     *      any bytes, none too; but to an empty text only the pattern * itself and the empty one match
 *     ?      any one byte
 *     [abx-z]  one of these; ranges may be written backwards, and compare bytes as signed numbers, which is what
 *              servers do on x86: [a-\x80] runs from \x80 over \xff and NUL to a. \ takes the special meaning from
 *              the byte after it, but in front of a range only the byte is meant. [] matches nothing, [^] anything
 *     [^abx-z] one that is none of these
 *     [ab    a class that is not closed ends with the pattern; [a- is a class of a and -
 *     \c     c itself; a \ at the end is a \
 *
 * Servers from 7.2 on stop looking at the 1001st *: here there is no such limit. Time: at most pattern_len times
 * text_len, mostly their sum; constant memory. */
RDBKIT_API int rdbkit_glob_match(const char *pattern, size_t pattern_len, const char *text, size_t text_len);

/* ---- Append-only files -------------------------------------------------------------------------------- */

/* A source of commands: one append-only file (AOF), of Redis from 2.8 on or Valkey. It is
 *
 *     file       = [ RDB image ] *( annotation | command )
 *     command    = "*" argc CR LF argc*( "$" len CR LF len*byte CR LF )
 *     annotation = "#" text CR LF                      Redis 7.0 and later, Valkey
 *
 * An image is there if the first bytes are REDIS or VALKEY; an empty file is one without commands.
 * What servers accept beyond the grammar is accepted (header lines that end in LF alone, "* 3",
 * "*+3", "*03", "*3junk", any two bytes after an argument), and counted in rdbkit_aof_state. What
 * they refuse is RDBKIT_ERR_DAMAGED, and so are two things that they take: a length without a
 * digit, and one over 1 TiB. Whether a command exists, and has the right number of arguments, is
 * not looked at. docs/aof.md names the servers that this was checked on. */
typedef struct rdbkit_aof rdbkit_aof;

#define RDBKIT_NO_TIMESTAMP INT64_MIN /* there was no "#TS:" */

/* One command. All pointers and slices are borrowed until the callback returns. */
typedef struct rdbkit_command {
    const rdbkit_str *argv; /* name first, in the case that was written; any bytes */
    size_t argc;            /* at least 1 */
    rdbkit_str raw;         /* the record as it stands in the file, from its '*' to its last byte */
    uint64_t offset;        /* of its '*', bytes from the start of the (decompressed) file */
    /* The database it runs in: by the SELECTs before it, those inside transactions too. 0 at the
     * start of a file, and behind an image. A SELECT that is no integer of 0 to 2147483647 changes
     * nothing. */
    uint64_t db;
    int64_t timestamp_s; /* unix time of the last "#TS:" before it, or RDBKIT_NO_TIMESTAMP */
    int in_multi;        /* 1: queued between MULTI and EXEC; 0 for these two, 1 for a MULTI inside */
} rdbkit_command;

/* Receives what is in the file, in its order. A NULL member is not wanted. Answers are RDBKIT_OK to
 * go on, or a negative value to stop. No callback may call the reader that calls it, except
 * rdbkit_aof_offset() and rdbkit_aof_progress(). */
typedef struct rdbkit_aof_visitor {
    void *user;
    const rdbkit_visitor *rdb; /* gets the events of an image, to its own user; copied; NULL: just check */
    int (*rdb_end)(void *user, uint64_t offset); /* of the first byte behind the image */
    int (*command)(void *user, const rdbkit_command *command);
    /* text: without '#', CR and LF; borrowed until the callback returns. offset: of the '#'. */
    int (*annotation)(void *user, rdbkit_str text, uint64_t offset);
} rdbkit_aof_visitor;

/* How to read. All zero is the default. */
typedef struct rdbkit_aof_options {
    const rdbkit_allocator *allocator; /* NULL: malloc; copied */
    rdbkit_reader_options rdb;         /* for an image; its allocator NULL: the one above */
    /* More than that is RDBKIT_ERR_LIMIT; 0, the default: no limit but half of SIZE_MAX for a record. Over 2147483647
     * arguments, or 1 TiB in one, are damage in any case. */
    uint64_t max_args;        /* arguments of one command */
    uint64_t max_arg_len;     /* bytes of one argument */
    uint64_t max_command_len; /* bytes of one record, which is what may have to be held in memory */
    /* 1: also refuse what redis-check-aof refuses, and whatever else no server writes: headers that
     * do not end in CR LF or are no plain decimal number, and other bytes than CR LF after an
     * argument. */
    int strict;
} rdbkit_aof_options;

/* Fill in the defaults. */
RDBKIT_API void rdbkit_aof_options_init(rdbkit_aof_options *options);

/* Make a reader for one file.
 * visitor: copied; NULL or all NULL just checks.
 * Returns NULL when out of memory. Memory: 2 KiB, up to twice the largest command that does not lie
 * in one piece of input, 16 to 32 bytes for each of its arguments, and what a rdbkit_reader takes
 * while an image is read. */
RDBKIT_API rdbkit_aof *rdbkit_aof_new(const rdbkit_aof_options *options, const rdbkit_aof_visitor *visitor);
RDBKIT_API void rdbkit_aof_free(rdbkit_aof *a);

/* Give the next bytes of the file to a reader.
 * a: not inside one of its callbacks. buf: len bytes, borrowed for the call, may be NULL if len is
 * 0. len: any size; 0 changes nothing.
 * Returns RDBKIT_MORE (all taken), or a negative code that stays: any of RDBKIT_ERR_*, or what a
 * callback answered; RDBKIT_DONE after rdbkit_aof_finish(). Events: any number, on this thread,
 * before it returns. Time: linear in len, however it is cut. Errors: see rdbkit_aof_error(). */
RDBKIT_API int rdbkit_aof_feed(rdbkit_aof *a, const void *buf, size_t len);

/* Say that there is no more input. Returns RDBKIT_DONE or a negative code that stays.
 * RDBKIT_ERR_TRUNCATED has the offset of the command or annotation that is cut, or that of a MULTI
 * without EXEC if the file ends behind a whole record. No events. */
RDBKIT_API int rdbkit_aof_finish(rdbkit_aof *a);

/* Read the whole of an input, and finish. a: not inside one of its callbacks. Returns RDBKIT_DONE
 * or a negative code as rdbkit_aof_feed() and rdbkit_aof_finish(), or what the input ran into, as
 * rdbkit_reader_pull(). Events: as rdbkit_aof_feed(). */
RDBKIT_API int rdbkit_aof_pull(rdbkit_aof *a, rdbkit_input *in);

/* Bytes of the (decompressed) input that were consumed: all whole records. Inside a callback: the
 * offset of what it was given; inside one of visitor.rdb, as rdbkit_reader_offset(). */
RDBKIT_API uint64_t rdbkit_aof_offset(const rdbkit_aof *a);

/* The first error, or one with code RDBKIT_OK, which becomes it. Its offset is that of the header
 * line or line end at fault. The message begins with "record at N", "argument 2 of 3 at N",
 * "annotation at N", "transaction at N" or, when reading failed, "input at N". Errors inside an
 * image are those of rdbkit_reader_error(). Valid as long as a. */
RDBKIT_API const rdbkit_error *rdbkit_aof_error(const rdbkit_aof *a);

/* What is known of a file so far. Inside a callback: without what it was given. */
typedef struct rdbkit_aof_state {
    int has_rdb;          /* it begins with an RDB image */
    int rdb_verified;     /* and that ended with a checksum that was looked at and is right */
    uint64_t rdb_end;     /* of the first byte behind the image; RDBKIT_NO_OFFSET: not, or not yet */
    uint64_t commands;    /* MULTI, EXEC and SELECT too */
    uint64_t annotations; /* of any kind */
    /* Where a file can be cut: behind the last complete record that is outside of an open
     * transaction, and behind any complete record. Both are at least rdb_end; 0 as long as nothing
     * is complete. */
    uint64_t good_off;
    uint64_t good_any_off;
    uint64_t multi_off;        /* of the MULTI whose EXEC has not come, or RDBKIT_NO_OFFSET */
    uint64_t db;               /* that the next command runs in */
    int64_t first_timestamp_s; /* of the "#TS:" annotations, or RDBKIT_NO_TIMESTAMP */
    int64_t timestamp_s;       /* of the last one */
    /* What was accepted though no server writes it, in complete commands: header lines in another
     * form, and other bytes than CR LF behind an argument, which is damage more often than not.
     * first: offset, or RDBKIT_NO_OFFSET. */
    uint64_t odd_headers, odd_header_first;
    uint64_t odd_ends, odd_end_first;
} rdbkit_aof_state;

/* Valid as long as a, and kept up to date. */
RDBKIT_API const rdbkit_aof_state *rdbkit_aof_progress(const rdbkit_aof *a);

/* ---- Manifests ---------------------------------------------------------------------------------------- */

/* The list of files that make up one append-only log: Redis from 7.0 on, and Valkey. */
typedef struct rdbkit_manifest rdbkit_manifest;

/* One line of a manifest. */
typedef struct rdbkit_manifest_file {
    rdbkit_str name; /* unquoted, without / and \, not empty; terminated as well by rdbkit_manifest_parse() */
    int64_t seq;     /* not 0; of increments above 0, and ascending */
    char type;       /* 'b' base, 'i' increment, 'h' history: not loaded, servers delete it */
    /* Replication offsets of Redis 8.0 and later, written for increments alone; -1: none, and no end without start. */
    int64_t start_offset, end_offset;
    uint64_t line; /* from 1; not looked at by rdbkit_manifest_line() */
} rdbkit_manifest_file;

/* Longest line that servers read, LF included, and a terminator. */
#define RDBKIT_MANIFEST_LINE_MAX 1025

/* Read a manifest as servers read it: what they refuse is refused.
 * text: the whole file, len bytes, may be NULL if len is 0, which is damage; not kept.
 * error: NULL, or filled in, with code RDBKIT_OK if all is well; its offset is that of the line at
 * fault, and the message begins with "line N at OFFSET" if there is a line.
 * Returns a handle for rdbkit_manifest_free(), or NULL: RDBKIT_ERR_DAMAGED, RDBKIT_ERR_NOMEM. A
 * manifest of comments alone has no files, and stands for an empty log. Memory: the text and 56 bytes
 * a file; up to twice that, and a third copy of the latter while it is read. */
RDBKIT_API rdbkit_manifest *rdbkit_manifest_parse(const rdbkit_allocator *allocator, const void *text,
                                                  size_t len, rdbkit_error *error);
RDBKIT_API void rdbkit_manifest_free(rdbkit_manifest *m);

/* How many files, and each of them in the order of loading: the base, if there is one, the
 * increments, then those of type 'h', which are not loaded. index: from 0; NULL past the end. Valid
 * as long as m. */
RDBKIT_API size_t rdbkit_manifest_count(const rdbkit_manifest *m);
RDBKIT_API const rdbkit_manifest_file *rdbkit_manifest_at(const rdbkit_manifest *m, size_t index);

/* Write the line of a file as servers write it, the name in quotes where it needs them, with LF and
 * a terminator.
 * buf: size bytes; RDBKIT_MANIFEST_LINE_MAX is always enough; may be NULL if size is 0. file: line is
 * not looked at, nor whether seq ascends. Returns the length without terminator, or
 * RDBKIT_ERR_USAGE (name, seq 0 or type that no server would read), or RDBKIT_ERR_LIMIT (over size,
 * or longer than servers read); then buf is as it was. */
RDBKIT_API int rdbkit_manifest_line(char *buf, size_t size, const rdbkit_manifest_file *file);

/* Whether a file is a manifest, by its first bytes: the first line that is no comment begins with
 * "file ". head: len bytes, 1 KiB will do unless it begins with long comments; may be NULL if len is
 * 0. 1 or 0. */
RDBKIT_API int rdbkit_is_manifest(const void *head, size_t len);

/* ---- Replay ------------------------------------------------------------------------------------------- */

/* A keyspace in memory: databases of keys, and function libraries. RDB events and commands go in, events come out: a
 * sink of what a reader reads, and a source for every other sink. What each command does is what servers do while
 * they load an append-only file (docs/aof.md): nothing expires. */
typedef struct rdbkit_keyspace rdbkit_keyspace;

/* What a replay met that may make its result differ from what the server had. */
typedef enum rdbkit_replay_kind {
    RDBKIT_REPLAY_REFUSED,  /* a server answers with an error: nothing was changed */
    RDBKIT_REPLAY_SCRIPT,   /* EVAL and the like, skipped */
    RDBKIT_REPLAY_UNKNOWN,  /* an unknown command, skipped */
    RDBKIT_REPLAY_RELATIVE, /* a time counted from now, which was the last "#TS:" or options.now_ms */
    RDBKIT_REPLAY_UNSURE,   /* servers themselves do not agree on the result, see docs/aof.md */
    RDBKIT_REPLAY_KIND_N    /* how many there are */
} rdbkit_replay_kind;

/* Something of that kind. Borrowed until the callback returns. */
typedef struct rdbkit_replay_event {
    rdbkit_replay_kind kind;
    const char *text; /* why, one line; constant */
    uint64_t db;      /* in which the command runs */
    /* What was given, or a copy of it that was queued: then raw is empty. */
    const rdbkit_command *command;
} rdbkit_replay_event;

/* How to replay. All zero is the default. */
typedef struct rdbkit_keyspace_options {
    const rdbkit_allocator *allocator; /* NULL: malloc; copied */
    uint64_t memory_limit; /* bytes that the data may take, over which RDBKIT_ERR_LIMIT; 0: none. Default 0 */
    uint64_t seed;         /* of hash tables: a random number makes them safe against chosen names */
    int64_t now_ms;        /* unix time for relative times where no "#TS:" came before. Default 0 */
    /* The server whose log this is, for the few commands that releases execute each in their own way, and because a
     * target can lose only what the source had. An RDB image that names its server has the last word. Default NULL: the
     * newest. */
    const rdbkit_target *source;
    int skip_scripts; /* 1: leave out EVAL and the like; 0: RDBKIT_ERR_UNSUPPORTED */
    int skip_unknown; /* 1: leave out unknown commands; 0: RDBKIT_ERR_UNSUPPORTED */
    /* Hears of each event, inside the call that brings the command; must not call the keyspace. Answers 0, or a
     * negative value to stop. NULL, the default: not wanted. */
    int (*on_event)(void *ctx, const rdbkit_replay_event *event);
    void *on_event_ctx; /* its ctx */
} rdbkit_keyspace_options;

/* What is known of a keyspace. */
typedef struct rdbkit_replay_stats {
    uint64_t commands;                     /* run, those of transactions too, without MULTI and EXEC */
    uint64_t events[RDBKIT_REPLAY_KIND_N]; /* how many of each kind */
    rdbkit_header header;                  /* of the first RDB image; rdb_version 0: there was none */
    /* Keys, those of them that have an expiry, databases that have keys, function libraries. */
    uint64_t keys, expires, databases, functions;
    uint64_t memory, memory_peak; /* bytes asked of the allocator for the data: now, and at most */
} rdbkit_replay_stats;

/* Fill in the defaults. */
RDBKIT_API void rdbkit_keyspace_options_init(rdbkit_keyspace_options *options);

/* Make an empty keyspace. Returns NULL when out of memory. Memory: what the data takes, about as much as in a server;
 * values of an RDB image stay packed, as they came, until a command changes them. */
RDBKIT_API rdbkit_keyspace *rdbkit_keyspace_new(const rdbkit_keyspace_options *options);
RDBKIT_API void rdbkit_keyspace_free(rdbkit_keyspace *ks);

/* What to hand to a reader, to take in an RDB, and to a rdbkit_aof, to take in a file with its image. A key that is
 * there already when an image brings it is RDBKIT_ERR_DAMAGED: servers stop at that. Errors: see
 * rdbkit_keyspace_error(). Valid as long as ks. */
RDBKIT_API const rdbkit_visitor *rdbkit_keyspace_visitor(rdbkit_keyspace *ks);
RDBKIT_API const rdbkit_aof_visitor *rdbkit_keyspace_aof_visitor(rdbkit_keyspace *ks);

/* Run a command, as the visitor does; of command the fields argv, argc, offset and timestamp_s are looked at (it runs
 * in the database of the SELECTs that were run, and between MULTI and EXEC it is copied, and runs at EXEC).
 * Returns RDBKIT_OK, also for a command that a server refuses (on_event says so), or a negative code that stays:
 * RDBKIT_ERR_UNSUPPORTED (script, unknown command), RDBKIT_ERR_DAMAGED (wrong number of arguments),
 * RDBKIT_ERR_LIMIT, RDBKIT_ERR_NOMEM, RDBKIT_ERR_USAGE (argc 0), or what on_event answered. */
RDBKIT_API int rdbkit_keyspace_command(rdbkit_keyspace *ks, const rdbkit_command *command);

/* A file of a log has ended: a transaction that is open is dropped, and the next file begins in database 0. */
RDBKIT_API void rdbkit_keyspace_file_end(rdbkit_keyspace *ks);

/* Give out everything as events, on this thread, before it returns, in the order of rdbkit_visitor: header if an RDB
 * was taken in, databases by number, keys in the order in which they came to be. May be called any number of times.
 * options: key_filter and, for values that came with an RDB, piece_len are looked at. visitor: must not call ks;
 * answers RDBKIT_OK or a negative value, and key RDBKIT_SKIP_KEY, or RDBKIT_TAKE_* if offset is not 0. Returns
 * RDBKIT_DONE or a negative code: that of an earlier command (rdbkit_keyspace_error()), or what a callback answered;
 * RDBKIT_ERR_USAGE for an answer above 0; RDBKIT_ERR_NOMEM. Nothing of ks changes. */
RDBKIT_API int rdbkit_keyspace_emit(rdbkit_keyspace *ks, const rdbkit_reader_options *options,
                                    const rdbkit_visitor *visitor);

/* Fill in what is known of it. Time: all keys are looked at. */
RDBKIT_API void rdbkit_keyspace_stats(const rdbkit_keyspace *ks, rdbkit_replay_stats *stats);

/* The first error, or one with code RDBKIT_OK, which becomes it. Its offset is that of the command, or
 * RDBKIT_NO_OFFSET; type is NULL. Valid as long as ks. */
RDBKIT_API const rdbkit_error *rdbkit_keyspace_error(const rdbkit_keyspace *ks);

/* Whether servers know a command of an append-only file, and its number of arguments fits: RDBKIT_OK,
 * RDBKIT_ERR_UNSUPPORTED for an unknown command, RDBKIT_ERR_DAMAGED for a wrong number, 0 too. argv and argc are looked
 * at, nothing is run. */
RDBKIT_API int rdbkit_command_check(const rdbkit_command *command);

/* ---- Salvage ------------------------------------------------------------------------------------------ */

/* What stands between a reader and a sink, and lets sound values through alone: a damaged value whose end can be found
 * (a packed one always) costs its own key and no other. Hand rdbkit_salvage_visitor() to a reader.
 * Where the reader itself fails, nothing that follows can be found: call visitor->end() of the sink then, and what came
 * before is complete. As strict as a reader with deep, and about fields that stand twice; of a key that stands twice
 * the first one goes on. Key counts (resize) and slot data are left out; strings come whole. Memory: once or twice the
 * largest value, and 40 to 80 bytes for each of its members, and for each key. */
typedef struct rdbkit_salvage rdbkit_salvage;

/* A key that is lost. Borrowed until the callback returns. */
typedef struct rdbkit_lost {
    const rdbkit_key *key; /* as it is in the file, but without raw_name */
    const char *reason;    /* one line */
} rdbkit_lost;

/* Make one. to: the sink's visitor, copied. lost, ctx: called for each key that is lost, may be NULL; answers
 * RDBKIT_OK, or a negative value to stop; must not call the handle or its reader. Returns NULL when out of memory. */
RDBKIT_API rdbkit_salvage *rdbkit_salvage_new(const rdbkit_allocator *allocator, const rdbkit_visitor *to,
                                              int (*lost)(void *ctx, const rdbkit_lost *lost), void *ctx);
RDBKIT_API void rdbkit_salvage_free(rdbkit_salvage *s);

/* The visitor to hand to a reader, for one file. It answers what the sink and lost do, and RDBKIT_ERR_NOMEM. Valid as
 * long as s. */
RDBKIT_API const rdbkit_visitor *rdbkit_salvage_visitor(rdbkit_salvage *s);

/* Keys that went on, and keys that were lost, so far; inside lost with the one at hand. */
RDBKIT_API uint64_t rdbkit_salvage_kept(const rdbkit_salvage *s);
RDBKIT_API uint64_t rdbkit_salvage_lost(const rdbkit_salvage *s);

/* ---- Check -------------------------------------------------------------------------------------------- */

/* A sink that looks for what no reader can see alone: duplicate keys, and duplicate members or fields. */
typedef struct rdbkit_check rdbkit_check;

/* What a check has found twice. The second record is the duplicate; offsets are those of the records of
 * keys. field is 1 if it is a field or member inside the key at first_off. */
typedef struct rdbkit_duplicate {
    uint64_t first_off;  /* of the record that stands first */
    uint64_t second_off; /* of the other one; the same for a field or member */
    int field;           /* 1: a field or member, 0: a key */
} rdbkit_duplicate;

/* Make a check. spill: NULL to keep everything in memory; copied. Returns NULL when out of memory. Memory: 2 MiB;
 * without a spill also 12 to 24 bytes for each key, and for each member or field of collections of over 1024. */
RDBKIT_API rdbkit_check *rdbkit_check_new(const rdbkit_allocator *allocator, const rdbkit_spill *spill);
RDBKIT_API void rdbkit_check_free(rdbkit_check *c);

/* The visitor to hand to a reader. Keys are told apart by database and name, collections by the offset of their key:
 * who hands it to several readers, or calls it, sees to it that no two keys have the same. Errors: RDBKIT_ERR_NOMEM,
 * RDBKIT_ERR_IO of the spill; they stay, and rdbkit_check_finish() says so again. Valid as long as c. */
RDBKIT_API const rdbkit_visitor *rdbkit_check_visitor(rdbkit_check *c);

/* After the last event: find what occurs twice. Call it once. Duplicates are recognised by 71 bits of hash, so that a
 * finding should be confirmed by reading the two records where that is possible.
 * Returns how many were found (the first 16 can be had from rdbkit_check_duplicate), or RDBKIT_ERR_NOMEM or
 * RDBKIT_ERR_IO. Time: all records are read once for each 5 million of them. */
RDBKIT_API int64_t rdbkit_check_finish(rdbkit_check *c);

/* What was found: index from 0; NULL past the end, which is at most 16. Valid as long as c. */
RDBKIT_API const rdbkit_duplicate *rdbkit_check_duplicate(const rdbkit_check *c, size_t index);

#ifdef __cplusplus
}
#endif
#endif
