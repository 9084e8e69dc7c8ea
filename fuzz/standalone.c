/* standalone.c - runs a fuzz target where there is no libFuzzer: the seeds, then mutations of them.
 *
 *   target SECONDS PREFIX FOLDER     the input at work lies in PREFIXcurrent, and stays there after a crash
 *   target FILE                      one input, to look at a finding
 *
 * SPDX-License-Identifier: MIT
 */
#define _DEFAULT_SOURCE
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

enum { MAX = 65536 };

static uint32_t chance(uint32_t below) {
    static uint64_t x = 88172645463325252u;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return (uint32_t)(x >> 32) % below;
}

static size_t load(const char *path, uint8_t *data) {
    FILE *f = fopen(path, "rb");
    size_t n = f ? fread(data, 1, MAX, f) : 0;
    if (f) fclose(f);
    return n;
}

static void run(const char *current, const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size + !size);
    FILE *f = current ? fopen(current, "wb") : NULL;
    if (!copy) exit(3);
    if (f) {
        fwrite(data, 1, size, f);
        fclose(f);
    }
    memcpy(copy, data, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

int main(int argc, char **argv) {
    static uint8_t data[MAX];
    char path[4096], current[4096];
    if (argc == 2) {
        run(NULL, data, load(argv[1], data));
        return 0;
    }
    if (argc != 4) return 2;
    time_t end = time(NULL) + atoi(argv[1]);
    unsigned long runs = 0;
    snprintf(current, sizeof current, "%scurrent", argv[2]);
    for (int round = 0; round == 0 || (runs && time(NULL) < end); round++) {
        DIR *dir = opendir(argv[3]);
        if (!dir) return 3;
        for (struct dirent *d; (d = readdir(dir)) && (round == 0 || time(NULL) < end);) {
            if (d->d_name[0] == '.') continue;
            snprintf(path, sizeof path, "%s/%s", argv[3], d->d_name);
            size_t size = load(path, data);
            if (round) size = LLVMFuzzerCustomMutator(data, size, MAX, chance(UINT32_MAX));
            run(current, data, size);
            runs++;
        }
        closedir(dir);
    }
    remove(current);
    printf("%lu runs\n", runs);
    return 0;
}
