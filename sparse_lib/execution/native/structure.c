/* The active weights of a mask in row-major and column-major order, and checks of such orders. */
#include "engine.h"

#include <string.h>

int64_t count_mask(const uint8_t *mask, int64_t count) {
  int64_t active = 0;
  for (int64_t i = 0; i < count; i++) active += mask[i] != 0;
  return active;
}

void fill_structure(const uint8_t *mask, int64_t rows, int64_t columns, int32_t *index, int32_t *row_pointers,
                    int32_t *row_outputs, int32_t *column_pointers, int32_t *column_rows, int32_t *column_values) {
  int32_t count = 0;
  memset(column_pointers, 0, sizeof(int32_t) * (size_t)(columns + 1));
  for (int64_t row = 0; row < rows; row++) {
    row_pointers[row] = count;
    const uint8_t *line = mask + row * columns;
    for (int64_t column = 0; column < columns; column++) {
      if (!line[column]) continue;
      index[count] = (int32_t)(row * columns + column);
      row_outputs[count++] = (int32_t)column;
      column_pointers[column + 1]++;
    }
  }
  row_pointers[rows] = count;
  for (int64_t column = 0; column < columns; column++) column_pointers[column + 1] += column_pointers[column];
  /* Each column's pointer runs to the column's end while it fills, so afterwards all stand one place too far. */
  for (int64_t row = 0; row < rows; row++)
    for (int32_t k = row_pointers[row]; k < row_pointers[row + 1]; k++) {
      int32_t place = column_pointers[row_outputs[k]]++;
      column_rows[place] = (int32_t)row;
      column_values[place] = k;
    }
  for (int64_t column = columns; column > 0; column--) column_pointers[column] = column_pointers[column - 1];
  column_pointers[0] = 0;
}

/* No branches inside, so that the compiler makes vectors of it. */
static int is_within(const int32_t *numbers, int64_t count, int64_t limit) {
  uint32_t highest = 0;
  for (int64_t i = 0; i < count; i++) {
    uint32_t number = (uint32_t)numbers[i]; /* negative numbers become the highest */
    highest = number > highest ? number : highest;
  }
  return count == 0 || (int64_t)highest < limit;
}

static int is_ascending(const int32_t *pointers, int64_t count, int64_t last) {
  int wrong = pointers[0] != 0 || pointers[count] != last;
  for (int64_t i = 0; i < count; i++) wrong |= pointers[i] > pointers[i + 1];
  return !wrong;
}

const char *check_structure(const Structure *s) {
  if (!is_ascending(s->row_pointers, s->rows, s->count)) return "row_pointers must rise from 0 to the number of values.";
  if (!is_within(s->row_outputs, s->count, s->columns)) return "row_outputs must lie in [0, columns of the kernel).";
  return NULL;
}
