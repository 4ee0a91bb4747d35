/* Memory of each thread, grown when more is asked for and freed when the thread ends. */
#include "engine.h"

#include <pthread.h>
#include <stdlib.h>

typedef struct {
  void *block[SCRATCH_KINDS];
  size_t bytes[SCRATCH_KINDS];
  uint64_t job; /* which took the memory last */
} Scratch;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static uint64_t last_job;

static void free_scratch(void *memory) {
  Scratch *scratch = memory;
  for (int kind = 0; kind < SCRATCH_KINDS; kind++) free(scratch->block[kind]);
  free(scratch);
}

static void make_key(void) { pthread_key_create(&key, free_scratch); }

static Scratch *find_scratch(void) {
  pthread_once(&once, make_key);
  Scratch *scratch = pthread_getspecific(key);
  if (scratch) return scratch;
  scratch = calloc(1, sizeof *scratch);
  if (scratch && pthread_setspecific(key, scratch)) {
    free(scratch);
    return NULL;
  }
  return scratch;
}

void *take_scratch(int kind, size_t bytes) {
  Scratch *scratch = find_scratch();
  if (!scratch) return NULL;
  if (scratch->bytes[kind] < bytes || !scratch->block[kind]) {
    free(scratch->block[kind]);
    scratch->bytes[kind] = 0;
    if (posix_memalign(&scratch->block[kind], 4096, bytes + ALIGNMENT)) return scratch->block[kind] = NULL;
    scratch->bytes[kind] = bytes;
  }
  return scratch->block[kind];
}

uint64_t number_job(void) { return __atomic_add_fetch(&last_job, 1, __ATOMIC_RELAXED); }

int is_new_to_job(uint64_t job) {
  Scratch *scratch = find_scratch();
  if (!scratch || scratch->job == job) return 0;
  scratch->job = job;
  return 1;
}
