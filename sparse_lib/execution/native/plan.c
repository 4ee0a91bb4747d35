/* Plans: the order of the active weights and the places of the numbers, made once for a mask and a shape. */
#include "engine.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* What a tile reads of a block of channels shall stay in the first-level cache, and a list shall be worth its start. */
enum { BLOCK_BYTES = 24 << 10, LEAST_ENTRIES = 10 };
enum { MOST_PIECES = 12 };

typedef struct {
  Plan plan;
  void *pieces[MOST_PIECES];
  int count;
} Owned;

struct Cache {
  pthread_mutex_t mutex;
  Plan *plan;
};

Cache *make_cache(void) {
  Cache *cache = calloc(1, sizeof *cache);
  if (cache) pthread_mutex_init(&cache->mutex, NULL);
  return cache;
}

/* With the mutex held. */
static void drop(Plan *plan) {
  if (!plan || --plan->references) return;
  Owned *owned = (Owned *)plan;
  for (int i = 0; i < owned->count; i++) free(owned->pieces[i]);
  free(owned);
}

void delete_cache(Cache *cache) {
  if (!cache) return;
  drop(cache->plan);
  pthread_mutex_destroy(&cache->mutex);
  free(cache);
}

void *allocate_for(Plan *plan, size_t bytes) {
  Owned *owned = (Owned *)plan;
  void *piece;
  if (owned->count == MOST_PIECES || posix_memalign(&piece, ALIGNMENT, bytes + ALIGNMENT)) return NULL;
  return owned->pieces[owned->count++] = piece;
}

static int is_plan_of(const Plan *plan, const Key *key, const Structure *s) {
  const Structure *own = &plan->structure;
  return !memcmp(&plan->key, key, sizeof *key) && own->rows == s->rows && own->columns == s->columns &&
         own->count == s->count &&
         !memcmp(own->row_pointers, s->row_pointers, sizeof(int32_t) * (size_t)(s->rows + 1)) &&
         !memcmp(own->row_outputs, s->row_outputs, sizeof(int32_t) * (size_t)s->count);
}

static Plan *make_plan(const Key *key, const Structure *s) {
  Owned *owned = calloc(1, sizeof *owned);
  if (!owned) return NULL;
  Plan *plan = &owned->plan;
  plan->references = 1;
  plan->key = *key;
  plan->kernels = find_kernels((size_t)key->size);
  plan->in_channels = key->wanted == INPUTS ? key->sizes.outputs : key->sizes.channels;
  plan->out_channels = key->wanted == INPUTS ? key->sizes.channels : key->sizes.outputs;
  size_t pointers = sizeof(int32_t) * (size_t)(s->rows + 1), outputs = sizeof(int32_t) * (size_t)s->count;
  int32_t *row_pointers = allocate_for(plan, pointers), *row_outputs = allocate_for(plan, outputs);
  if (row_pointers && row_outputs) {
    memcpy(row_pointers, s->row_pointers, pointers);
    memcpy(row_outputs, s->row_outputs, outputs);
    plan->structure = (Structure){s->rows, s->columns, s->count, row_pointers, row_outputs};
    if (!(key->is_dense ? prepare_dense(plan) : prepare_convolution(plan))) return plan;
  }
  drop(plan);
  return NULL;
}

Plan *find_plan(Cache *cache, const Key *key, const Structure *s, const char **wrong) {
  *wrong = NULL;
  pthread_mutex_lock(&cache->mutex);
  if (!cache->plan || !is_plan_of(cache->plan, key, s)) {
    *wrong = check_structure(s);
    Plan *plan = *wrong ? NULL : make_plan(key, s);
    if (!plan) {
      pthread_mutex_unlock(&cache->mutex);
      return NULL;
    }
    drop(cache->plan);
    cache->plan = plan;
  }
  Plan *plan = cache->plan;
  plan->references++;
  pthread_mutex_unlock(&cache->mutex);
  return plan;
}

void release_plan(Cache *cache, Plan *plan) {
  pthread_mutex_lock(&cache->mutex);
  drop(plan);
  pthread_mutex_unlock(&cache->mutex);
}

void choose_blocks(Plan *plan, int64_t bytes) {
  int64_t fitting = divide_up(plan->in_channels * bytes, BLOCK_BYTES);
  int64_t worthwhile = plan->structure.count / (LEAST_ENTRIES * plan->phases * plan->out_channels + 1);
  plan->blocks = most(1, least(plan->in_channels, least(fitting, worthwhile)));
}

int64_t find_block(const Plan *plan, int64_t channel) { return channel * plan->blocks / plan->in_channels; }

int make_tables(Plan *plan, Tables *tables) {
  size_t rows = sizeof(int32_t) * (size_t)plan->structure.rows;
  size_t columns = sizeof(int32_t) * (size_t)plan->structure.columns, bytes = 0;
  size_t starts[4] = {reserve(&bytes, rows), reserve(&bytes, rows), reserve(&bytes, columns),
                      reserve(&bytes, columns)};
  char *memory = take_scratch(FOR_CALL, bytes);
  if (!memory) return 1;
  *tables = (Tables){(int32_t *)(memory + starts[0]), (int32_t *)(memory + starts[1]),
                     (int32_t *)(memory + starts[2]), (int32_t *)(memory + starts[3])};
  return 0;
}

/* Masks made of blocks have neighbouring outputs that read the same inputs: a tile loads them once for all. */
static void find_alike(Plan *plan) {
  int64_t groups = plan->phases * plan->blocks;
  memset(plan->are_alike, 0, (size_t)(groups * plan->out_channels));
  for (int64_t group = 0; group < groups; group++)
    for (int64_t o = 0; o + ALIKE <= plan->out_channels; o += ALIKE) {
      const int32_t *pointers = plan->pointers + group * plan->out_channels + o;
      int32_t length = pointers[1] - pointers[0];
      int same = length > 0;
      for (int i = 1; i < ALIKE && same; i++)
        same = pointers[i + 1] - pointers[i] == length &&
               !memcmp(plan->offsets + pointers[0], plan->offsets + pointers[i], sizeof(int32_t) * (size_t)length);
      plan->are_alike[group * plan->out_channels + o] = (uint8_t)same;
      plan->has_alike |= same;
    }
}

int fill_entries(Plan *plan, const Tables *tables) {
  const Structure *s = &plan->structure;
  int64_t lists = plan->phases * plan->blocks * plan->out_channels;
  plan->pointers = allocate_for(plan, sizeof(int32_t) * (size_t)(lists + 2));
  plan->offsets = allocate_for(plan, sizeof(int32_t) * (size_t)s->count);
  plan->order = allocate_for(plan, sizeof(int32_t) * (size_t)s->count);
  plan->are_alike = allocate_for(plan, (size_t)lists);
  if (!plan->pointers || !plan->offsets || !plan->order || !plan->are_alike) return 1;
  /* Lengths stand two places late, and while the lists fill up, each list's end one place late. */
  int32_t *ends = plan->pointers + 1;
  memset(plan->pointers, 0, sizeof(int32_t) * (size_t)(lists + 2));
  for (int64_t row = 0; row < s->rows; row++)
    for (int32_t k = s->row_pointers[row]; k < s->row_pointers[row + 1]; k++)
      ends[tables->row_lists[row] + tables->output_lists[s->row_outputs[k]] + 1]++;
  for (int64_t list = 0; list < lists; list++) {
    plan->longest = most(plan->longest, ends[list + 1]);
    ends[list + 1] += ends[list];
  }
  for (int64_t row = 0; row < s->rows; row++)
    for (int32_t k = s->row_pointers[row]; k < s->row_pointers[row + 1]; k++) {
      int32_t output = s->row_outputs[k], place = ends[tables->row_lists[row] + tables->output_lists[output]]++;
      plan->offsets[place] = tables->row_offsets[row] + tables->output_offsets[output];
      plan->order[place] = k;
    }
  find_alike(plan);
  return 0;
}

void run_blocks(const Plan *plan, int64_t phase, Tile *tile) {
  for (int64_t block = 0; block < plan->blocks; block++) {
    int64_t lists = (phase * plan->blocks + block) * plan->out_channels;
    tile->pointers = plan->pointers + lists;
    tile->are_alike = plan->has_alike ? plan->are_alike + lists : NULL;
    tile->adds = block > 0;
    if (plan->key.wanted == VALUES)
      plan->kernels->values(tile);
    else
      plan->kernels->outputs(tile);
  }
}

void *gather_weights(const Plan *plan, const void *values, void *memory) {
  plan->kernels->gather(values, plan->order, plan->structure.count, memory);
  return memory;
}

static void add_numbers(const Kernels *kernels, const char *numbers, int64_t count, char *sums) {
  if (kernels->size == sizeof(float))
    for (int64_t k = 0; k < count; k++) ((float *)sums)[k] += ((const float *)numbers)[k];
  else
    for (int64_t k = 0; k < count; k++) ((double *)sums)[k] += ((const double *)numbers)[k];
}

void add_parts(const Plan *plan, void *sums, int64_t parts, void *dvalues) {
  int64_t count = plan->structure.count;
  char *part = sums;
  if (!parts) memset(dvalues, 0, (size_t)count * plan->kernels->size);
  for (int64_t i = 1; i < parts; i++)
    add_numbers(plan->kernels, part + (size_t)(i * count) * plan->kernels->size, count, part);
  if (parts) plan->kernels->scatter(part, plan->order, count, dvalues);
}
