/* bench_gen.c - makes the files for the benchmarks, always the same ones, and measures a command.
 *
 *   bench_gen strings|json|hashes|collections|streams FILE
 *   bench_gen run COMMAND [ARG...]     standard output thrown away; prints: status seconds cpu-seconds peak-KiB
 *
 * The run form exists because a child's peak memory starts from its parent's, and this parent is small.
 *
 * SPDX-License-Identifier: MIT
 */
#define _DEFAULT_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <lzf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- RDB out: a buffered file with a running CRC64 ---- */

static FILE *out;
static uint64_t crc, crc_table[256];

static void crc_init(void) {
    for (unsigned i = 0; i < 256; i++) {
        uint64_t c = i;
        for (int bit = 0; bit < 8; bit++) c = c & 1 ? (c >> 1) ^ UINT64_C(0x95ac9329ac4bc9b5) : c >> 1;
        crc_table[i] = c;
    }
}

static void bytes(const void *data, size_t n) {
    const unsigned char *p = data;
    uint64_t c = crc;
    for (size_t i = 0; i < n; i++) c = crc_table[(c ^ p[i]) & 255] ^ (c >> 8);
    crc = c;
    if (fwrite(data, 1, n, out) != n) {
        perror("write");
        exit(3);
    }
}

static void byte(unsigned b) {
    unsigned char c = (unsigned char)b;
    bytes(&c, 1);
}

static void le(uint64_t v, int n) {
    for (int i = 0; i < n; i++) byte((unsigned)(v >> (8 * i)) & 255);
}

static void be(uint64_t v, int n) {
    while (n--) byte((unsigned)(v >> (8 * n)) & 255);
}

static void len(uint64_t n) {
    if (n < 64) {
        byte((unsigned)n);
    } else if (n < 16384) {
        be(0x4000 | n, 2);
    } else if (n <= UINT32_MAX) {
        byte(0x80);
        be(n, 4);
    } else {
        byte(0x81);
        be(n, 8);
    }
}

/* The integer that a text is, if a server would store it as one. */
static int as_int(const char *s, size_t n, int64_t *v) {
    char text[24], again[24];
    if (n == 0 || n > 20) return 0;
    memcpy(text, s, n);
    text[n] = 0;
    errno = 0;
    *v = strtoll(text, NULL, 10);
    return !errno && snprintf(again, sizeof again, "%" PRId64, *v) == (int)n && !memcmp(again, text, n);
}

/* A string as servers write it: a small integer, LZF where it saves four bytes, or as it is. */
static void str_n(const void *data, size_t n) {
    static char packed[1 << 16];
    int64_t v;
    if (n <= 11 && as_int(data, n, &v) && v >= INT32_MIN && v <= INT32_MAX) {
        int size = v == (int8_t)v ? 0 : v == (int16_t)v ? 1 : 2;
        byte(0xc0u + (unsigned)size);
        le((uint64_t)v, 1 << size);
        return;
    }
    unsigned packed_n =
        n > 20 && n < sizeof packed ? lzf_compress(data, (unsigned)n, packed, (unsigned)n - 4) : 0;
    if (packed_n) {
        byte(0xc3);
        len(packed_n);
        len(n);
        bytes(packed, packed_n);
    } else {
        len(n);
        bytes(data, n);
    }
}

static void str(const char *s) { str_n(s, strlen(s)); }

static void aux(const char *name, const char *value) {
    byte(250);
    str(name);
    str(value);
}

static void head(unsigned keys) {
    bytes("REDIS0011", 9);
    aux("redis-ver", "7.2.6");
    aux("redis-bits", "64");
    aux("ctime", "1700000000");
    aux("used-mem", "1000000000");
    aux("aof-base", "0");
    byte(254);
    len(0);
    byte(251);
    len(keys);
    len(0);
}

static void tail(void) {
    byte(255);
    uint64_t sum = crc;
    le(sum, 8);
    if (fclose(out)) {
        perror("close");
        exit(3);
    }
}

/* ---- Listpacks ---- */

static unsigned char lp[1 << 16];
static size_t lp_n;
static unsigned lp_count;

static void lp_start(void) {
    lp_n = 6;
    lp_count = 0;
}

static void lp_close_entry(size_t start) {
    size_t n = lp_n - start; /* below 16383 here: one or two bytes */
    if (n > 127) lp[lp_n++] = (unsigned char)(n >> 7);
    lp[lp_n++] = (unsigned char)(n > 127 ? (n & 127) | 128 : n);
    lp_count++;
}

static void lp_int(int64_t v) {
    size_t start = lp_n;
    if (v >= 0 && v <= 127) {
        lp[lp_n++] = (unsigned char)v;
    } else if (v >= -4096 && v <= 4095) {
        lp[lp_n++] = (unsigned char)(0xc0 | ((uint64_t)v >> 8 & 31));
        lp[lp_n++] = (unsigned char)v;
    } else {
        int n = v == (int16_t)v ? 2 : v >= -8388608 && v <= 8388607 ? 3 : v == (int32_t)v ? 4 : 8;
        lp[lp_n++] = (unsigned char)(n == 8 ? 0xf4 : 0xf1 + n - 2);
        for (int i = 0; i < n; i++) lp[lp_n++] = (unsigned char)((uint64_t)v >> (8 * i));
    }
    lp_close_entry(start);
}

static void lp_str(const char *s) {
    size_t n = strlen(s), start = lp_n;
    int64_t v;
    if (as_int(s, n, &v)) {
        lp_int(v);
        return;
    }
    if (n < 64) {
        lp[lp_n++] = (unsigned char)(0x80 | n);
    } else {
        lp[lp_n++] = (unsigned char)(0xe0 | n >> 8);
        lp[lp_n++] = (unsigned char)n;
    }
    memcpy(lp + lp_n, s, n);
    lp_n += n;
    lp_close_entry(start);
}

static void lp_write(void) {
    lp[lp_n++] = 255;
    for (int i = 0; i < 4; i++) lp[i] = (unsigned char)(lp_n >> (8 * i));
    lp[4] = (unsigned char)lp_count;
    lp[5] = (unsigned char)(lp_count >> 8);
    str_n(lp, lp_n);
}

/* ---- Workloads ---- */

static uint64_t seed = 88172645463325252u;

static unsigned rnd(unsigned below) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (unsigned)((seed >> 32) % below);
}

static const char *pick(const char *const *words) { return words[rnd(8)]; }

static const char *const cities[] = {"Amsterdam", "Berlin",  "Cordoba", "Delhi",
                                     "Edinburgh", "Fukuoka", "Genoa",   "Hanoi"};
static const char *const names[] = {"alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi"};
static const char *const states[] = {"active",    "pending", "closed", "new",
                                     "suspended", "open",    "draft",  "archived"};

static void strings(void) {
    char key[32], value[32];
    head(5000000);
    for (unsigned i = 0; i < 5000000; i++) {
        snprintf(key, sizeof key, "key:%010u", i);
        if (i % 3 == 0) {
            snprintf(value, sizeof value, "%u", rnd(2000000000));
        } else {
            unsigned n = 10 + rnd(11);
            for (unsigned j = 0; j < n; j++) value[j] = (char)('a' + rnd(26));
            value[n] = 0;
        }
        byte(0);
        str(key);
        str(value);
    }
}

static void json(void) {
    char key[32], value[512];
    head(1000000);
    for (unsigned i = 0; i < 1000000; i++) {
        const char *name = pick(names), *city = pick(cities);
        snprintf(key, sizeof key, "user:%u", i);
        snprintf(
            value, sizeof value,
            "{\"id\":%u,\"name\":\"%s\",\"email\":\"%s.%u@example.com\",\"status\":\"%s\",\"address\":{"
            "\"street\":\"%u "
            "Main Street\",\"city\":\"%s\",\"zip\":\"%05u\"},\"created_at\":\"2024-%02u-%02uT10:%02u:00Z\","
            "\"updated_at\":\"2024-%02u-%02uT11:%02u:00Z\",\"balance\":%u.%02u,\"tags\":[\"%s\",\"%s\"],"
            "\"visits\":%u}",
            i, name, name, rnd(100000), pick(states), rnd(999), city, rnd(100000), 1 + rnd(12), 1 + rnd(28),
            rnd(60), 1 + rnd(12), 1 + rnd(28), rnd(60), rnd(100000), rnd(100), pick(states), pick(names),
            rnd(5000));
        byte(0);
        str(key);
        str(value);
    }
}

static void hashes(void) {
    static const char *const fields[] = {"name",   "email",   "age",    "city",
                                         "status", "created", "visits", "token"};
    char text[64];
    head(1000000);
    for (unsigned i = 0; i < 1000000; i++) {
        snprintf(text, sizeof text, "session:%u", i);
        byte(16);
        str(text);
        lp_start();
        for (int f = 0; f < 8; f++) {
            lp_str(fields[f]);
            switch (f) {
            case 0: snprintf(text, sizeof text, "%s %u", pick(names), rnd(1000)); break;
            case 1: snprintf(text, sizeof text, "%s%u@example.com", pick(names), rnd(100000)); break;
            case 2: snprintf(text, sizeof text, "%u", 18 + rnd(80)); break;
            case 3: snprintf(text, sizeof text, "%s", pick(cities)); break;
            case 4: snprintf(text, sizeof text, "%s", pick(states)); break;
            case 5: snprintf(text, sizeof text, "%u", 1700000000 + rnd(10000000)); break;
            case 6: snprintf(text, sizeof text, "%u", rnd(50000)); break;
            default: snprintf(text, sizeof text, "%08x%08x", rnd(UINT32_MAX), rnd(UINT32_MAX)); break;
            }
            lp_str(text);
        }
        lp_write();
    }
}

enum { EACH = 125000, NODE = 372 }; /* elements of a collection; of 22 bytes in a list node of 8 KiB */

static void list(int number) {
    char text[64];
    snprintf(text, sizeof text, "big:list:%d", number);
    byte(18);
    str(text);
    len((EACH + NODE - 1) / NODE);
    for (unsigned i = 0; i < EACH; i++) {
        if (i % NODE == 0) lp_start();
        snprintf(text, sizeof text, "item:%06u:%08x", i, rnd(UINT32_MAX));
        lp_str(text);
        if (i % NODE == NODE - 1 || i == EACH - 1) {
            len(2);
            lp_write();
        }
    }
}

static void set_hash_or_zset(unsigned type, const char *name, int number) {
    char text[64];
    snprintf(text, sizeof text, "big:%s:%d", name, number);
    byte(type);
    str(text);
    len(EACH);
    for (unsigned i = 0; i < EACH; i++) {
        snprintf(text, sizeof text, "%s:%06u:%08x", name, i, rnd(UINT32_MAX));
        str(text);
        if (type == 4) {
            snprintf(text, sizeof text, i % 2 ? "%u" : "value %u", rnd(1000000));
            str(text);
        } else if (type == 5) {
            /* descending, as servers write them: half with three decimals, half with all digits of a double */
            double score = ((EACH - i) * 137.0 + (i % 2 ? rnd(137) : rnd(1000000) * 137e-6)) / 1000;
            uint64_t bits;
            memcpy(&bits, &score, 8);
            le(bits, 8);
        }
    }
}

static void collections(void) {
    head(80);
    for (int i = 0; i < 20; i++) {
        list(i);
        set_hash_or_zset(2, "set", i);
        set_hash_or_zset(4, "hash", i);
        set_hash_or_zset(5, "zset", i);
    }
}

static uint64_t entry_ms(int number, unsigned i) {
    return UINT64_C(1700000000000) + (uint64_t)number * 1000000 + i / 3 * 7;
}

static void pending_id(int number, unsigned i) {
    be(entry_ms(number, i), 8);
    be(i % 3, 8);
}

static void stream(int number) {
    enum { ENTRIES = 50000, PENDING = 300 };
    char text[64];
    snprintf(text, sizeof text, "events:%d", number);
    byte(21);
    str(text);
    len(ENTRIES / 100);
    for (unsigned i = 0; i < ENTRIES; i++) {
        unsigned first = i - i % 100;
        if (i == first) {
            len(16);
            pending_id(number, i);
            lp_start();
            lp_int(100);
            lp_int(0);
            lp_int(3);
            lp_str("sensor");
            lp_str("value");
            lp_str("unit");
            lp_int(0);
        }
        lp_int(2);
        lp_int((int64_t)(entry_ms(number, i) - entry_ms(number, first)));
        lp_int((int)(i % 3) - (int)(first % 3));
        snprintf(text, sizeof text, "s-%u", rnd(1000));
        lp_str(text);
        snprintf(text, sizeof text, "%u.%02u", rnd(100), 1 + rnd(99));
        lp_str(text);
        lp_str(i % 5 ? "C" : "hPa");
        lp_int(6);
        if (i % 100 == 99) lp_write();
    }
    len(ENTRIES);
    len(entry_ms(number, ENTRIES - 1));
    len((ENTRIES - 1) % 3);
    len(entry_ms(number, 0));
    len(0);
    len(0);
    len(0);
    len(ENTRIES);
    len(1);
    str("workers");
    len(entry_ms(number, 999));
    len(999 % 3);
    len(1000);
    len(PENDING);
    for (unsigned i = 0; i < PENDING; i++) {
        pending_id(number, i * 3);
        le(UINT64_C(1700000900000) + i, 8);
        len(1 + i % 4);
    }
    len(2);
    for (unsigned c = 0; c < 2; c++) {
        str(c ? "worker-b" : "worker-a");
        le(UINT64_C(1700000950000), 8);
        le(UINT64_C(1700000940000), 8);
        len(PENDING / 2);
        for (unsigned i = c; i < PENDING; i += 2) pending_id(number, i * 3);
    }
}

static void streams(void) {
    head(20);
    for (int i = 0; i < 20; i++) stream(i);
}

/* ---- Measuring ---- */

static int run(char **command) {
    struct timespec start, end;
    struct rusage used;
    int status;
    clock_gettime(CLOCK_MONOTONIC, &start);
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_WRONLY);
        dup2(null, 1);
        execvp(command[0], command);
        perror(command[0]);
        _exit(127);
    }
    if (pid < 0 || waitpid(pid, &status, 0) < 0 || getrusage(RUSAGE_CHILDREN, &used)) {
        perror("run");
        return 3;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    double cpu = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                 (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
#ifdef __APPLE__
    long peak = used.ru_maxrss / 1024;
#else
    long peak = used.ru_maxrss;
#endif
    printf("%d %.6f %.6f %ld\n", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
           (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9, cpu, peak);
    return 0;
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*make)(void);
    } workloads[] = {
        {"strings", strings},         {"json", json},       {"hashes", hashes},
        {"collections", collections}, {"streams", streams},
    };
    if (argc > 2 && !strcmp(argv[1], "run")) return run(argv + 2);
    for (size_t i = 0; argc == 3 && i < sizeof workloads / sizeof *workloads; i++) {
        if (strcmp(argv[1], workloads[i].name)) continue;
        out = fopen(argv[2], "wb");
        if (!out) {
            perror(argv[2]);
            return 3;
        }
        setvbuf(out, NULL, _IOFBF, 1 << 18);
        crc_init();
        workloads[i].make();
        tail();
        return 0;
    }
    fprintf(stderr,
            "usage: bench_gen strings|json|hashes|collections|streams FILE, or bench_gen run COMMAND...\n");
    return 2;
}
