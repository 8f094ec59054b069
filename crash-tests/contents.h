/* The contents of commit n in every store of these programs: they follow from n alone. Also FAIL. */
#ifndef CONTENTS_H
#define CONTENTS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmstore.h"

#define FAIL(...)                                                                                  \
    do {                                                                                           \
        fprintf(stderr, "%s: line %d: ", __FILE__, __LINE__);                                      \
        fprintf(stderr, __VA_ARGS__);                                                              \
        fputc('\n', stderr);                                                                       \
        exit(1);                                                                                   \
    } while (0)

static const char *why(void)
{
    static char text[1024];
    store_last_error(text, sizeof text);
    return text;
}

enum { MODULES = 2, PAGE = 4096 };
static const char *const ids[MODULES] = {"ram", "dev"};
#ifndef RAM_PAGES
#define RAM_PAGES 6
#endif
static const int pages[MODULES] = {RAM_PAGES, 3};

/* The step whose bytes a page has at commit n; 0: it is zero. */
static uint64_t step_of(uint64_t n, int module, int page)
{
    for (; n > 0; n--)
        if ((int)(n % (uint64_t)pages[module]) == page || (n == 1 && page != 2)) return n;
    return 0;
}

static void page_at(unsigned char *to, uint64_t n, int module, int page)
{
    uint64_t step = step_of(n, module, page);
    memset(to, 0, PAGE);
    if (!step || step % 5 == 4) return; /* some become zero again */
    for (unsigned i = 0; i < PAGE; i += 8) {
        uint64_t word = (step * 31 + (uint64_t)module * 7 + (uint64_t)page + 1) * 0x9e3779b97f4a7c15u + i;
        memcpy(to + i, &word, 8);
    }
}

#endif
