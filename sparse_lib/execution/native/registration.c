/* The operations as TensorFlow sees them: names, inputs, checks, outputs. */
#include "engine.h"
#include "operation.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { STRUCTURE_TENSORS = 3, OUTPUTS_OF_STRUCTURE = 6 };

/* A product in a graph: the attributes of a convolution, and the plan of its last call. */
typedef struct {
  int64_t kernel[2], stride[2], dilation[2];
  unsigned char is_same;
  Cache *cache;
} Product;

static TF_Tensor *allocate_output(Call *call, const int64_t *shape, int rank) {
  return allocate_output_at(call, 0, shape, rank);
}

/* Reads the structure, which follows the first two inputs. Of column_pointers only the length matters. */
static int read_structure(Call *call, Structure *s) {
  const int32_t *data[STRUCTURE_TENSORS];
  int64_t length[STRUCTURE_TENSORS];
  for (int i = 0; i < STRUCTURE_TENSORS; i++) {
    const TF_Tensor *tensor = call->inputs[2 + i];
    if (TF_NumDims(tensor) != 1) return refuse(call, "The tensors of a structure are vectors.");
    data[i] = TF_TensorData(tensor);
    length[i] = TF_Dim(tensor, 0);
  }
  if (length[0] < 1 || length[2] < 1) return refuse(call, "row_pointers and column_pointers must not be empty.");
  *s = (Structure){length[0] - 1, length[2] - 1, length[1], data[0], data[1]};
  return 1;
}

static int check_values(Call *call, const TF_Tensor *values, const Structure *s) {
  if (TF_NumDims(values) != 1 || TF_Dim(values, 0) != s->count)
    return refuse(call, "values must be a vector with one number for each active weight.");
  return 1;
}

static int check_matrix(Call *call, const TF_Tensor *matrix, int64_t columns, const char *message) {
  return TF_NumDims(matrix) == 2 && TF_Dim(matrix, 1) == columns ? 1 : refuse(call, message);
}

/* Runs the product on the first two inputs. */
static int run_product(Call *call, const Product *product, const Structure *s, const Convolution *sizes, int is_dense,
                       Wanted wanted, const int64_t *shape, int rank) {
  Key key;
  memset(&key, 0, sizeof key);
  key.wanted = wanted;
  key.size = (int64_t)size_of(call->inputs[0]);
  key.is_dense = is_dense;
  key.threads = wanted == VALUES ? 1 : count_threads();
  key.sizes = *sizes;
  const char *wrong;
  Plan *plan = find_plan(product->cache, &key, s, &wrong);
  if (wrong) return refuse(call, wrong);
  TF_Tensor *output = plan ? allocate_output(call, shape, rank) : NULL;
  int failed = !output;
  if (output) {
    const void *first = TF_TensorData(call->inputs[0]), *second = TF_TensorData(call->inputs[1]);
    failed = (is_dense ? run_dense : run_convolution)(plan, first, second, TF_TensorData(output));
    TF_DeleteTensor(output);
  }
  if (plan) release_plan(product->cache, plan);
  if (failed && TF_GetCode(call->status) == TF_OK)
    return fail(call, TF_RESOURCE_EXHAUSTED, "There is not enough memory for a sparse product.");
  return !failed;
}

static int run_matmul(Call *call, const Product *product, Wanted wanted) {
  Structure s;
  if (!read_structure(call, &s)) return 0;
  const TF_Tensor *first = call->inputs[0], *second = call->inputs[1];
  const char *wrong_x = "x must be of shape [batch, rows of the kernel].";
  const char *wrong_dy = "dy must be of shape [batch, columns of the kernel].";
  if (!(wanted == INPUTS ? check_matrix(call, first, s.columns, wrong_dy) : check_matrix(call, first, s.rows, wrong_x)))
    return 0;
  if (!(wanted == VALUES ? check_matrix(call, second, s.columns, wrong_dy) : check_values(call, second, &s))) return 0;
  int64_t batch = TF_Dim(first, 0);
  if (wanted == VALUES && TF_Dim(second, 0) != batch) return refuse(call, "x and dy must be of one batch size.");
  int64_t shapes[3][2] = {{batch, s.columns}, {batch, s.rows}, {s.count}};
  Convolution sizes = {.images = batch, .channels = s.rows, .outputs = s.columns};
  return run_product(call, product, &s, &sizes, 1, wanted, shapes[wanted], wanted == VALUES ? 1 : 2);
}

/* Sizes of the output and zeros before the input, as TensorFlow defines "SAME" and "VALID". */
static void fill_sizes(Convolution *c, const Product *p) {
  int64_t in[2] = {c->height, c->width}, out[2];
  for (int i = 0; i < 2; i++) {
    int64_t span = (p->kernel[i] - 1) * p->dilation[i] + 1;
    c->kernel[i] = p->kernel[i];
    c->stride[i] = p->stride[i];
    c->dilation[i] = p->dilation[i];
    out[i] = count_windows(in[i], span, p->stride[i], p->is_same, &c->before[i]);
  }
  c->out_height = out[0];
  c->out_width = out[1];
}

static int read_convolution(Call *call, const Product *product, Wanted wanted, const Structure *s,
                            Convolution *c) {
  const TF_Tensor *first = call->inputs[0], *output = wanted == VALUES ? call->inputs[1] : first;
  int64_t taps = product->kernel[0] * product->kernel[1];
  if (TF_NumDims(first) != 4 || TF_NumDims(output) != 4)
    return refuse(call, "Images must be of shape [batch, height, width, channels].");
  if (s->rows % taps) return refuse(call, "The kernel's rows must be a multiple of its height times its width.");
  *c = (Convolution){.images = TF_Dim(first, 0), .channels = s->rows / taps, .outputs = s->columns};
  if (wanted == INPUTS) {
    const TF_Tensor *size = call->inputs[2 + STRUCTURE_TENSORS];
    if (TF_NumDims(size) != 1 || TF_Dim(size, 0) != 2) return refuse(call, "input_size must be [height, width].");
    const int32_t *sizes = TF_TensorData(size);
    if (sizes[0] < 0 || sizes[1] < 0) return refuse(call, "input_size must not be negative.");
    c->height = sizes[0];
    c->width = sizes[1];
  } else {
    c->height = TF_Dim(first, 1);
    c->width = TF_Dim(first, 2);
    if (TF_Dim(first, 3) != c->channels) return refuse(call, "x must have the kernel's number of channels.");
  }
  fill_sizes(c, product);
  if (wanted != OUTPUTS && (TF_Dim(output, 0) != c->images || TF_Dim(output, 1) != c->out_height ||
                            TF_Dim(output, 2) != c->out_width || TF_Dim(output, 3) != c->outputs))
    return refuse(call, "dy must be of the shape of the convolution's output.");
  return 1;
}

static int run_conv(Call *call, const Product *product, Wanted wanted) {
  Structure s;
  Convolution c;
  if (!read_structure(call, &s) || !read_convolution(call, product, wanted, &s, &c)) return 0;
  if (wanted != VALUES && !check_values(call, call->inputs[1], &s)) return 0;
  int64_t shapes[3][4] = {{c.images, c.out_height, c.out_width, c.outputs},
                          {c.images, c.height, c.width, c.channels},
                          {s.count}};
  /* One tap that visits every position is a matrix product over all positions. */
  int is_dense = c.kernel[0] * c.kernel[1] * c.stride[0] * c.stride[1] == 1;
  Convolution positions = {.images = c.images * c.height * c.width, .channels = c.channels, .outputs = c.outputs};
  return run_product(call, product, &s, is_dense ? &positions : &c, is_dense, wanted, shapes[wanted],
                     wanted == VALUES ? 1 : 4);
}

#define COMPUTE(name, call_of, inputs)                                   \
  static void name(void *kernel, TF_OpKernelContext *context) {          \
    Call call;                                                           \
    if (begin(&call, context, 2 + STRUCTURE_TENSORS + (inputs))) call_of; \
    end(&call);                                                          \
  }
COMPUTE(compute_matmul, run_matmul(&call, kernel, OUTPUTS), 0)
COMPUTE(compute_matmul_transposed, run_matmul(&call, kernel, INPUTS), 0)
COMPUTE(compute_matmul_values, run_matmul(&call, kernel, VALUES), 0)
COMPUTE(compute_conv, run_conv(&call, kernel, OUTPUTS), 0)
COMPUTE(compute_conv_transposed, run_conv(&call, kernel, INPUTS), 1)
COMPUTE(compute_conv_values, run_conv(&call, kernel, VALUES), 0)

/* The last mask of an operation and its structure. The tensors are shared with whoever received them: TensorFlow counts
   their owners and writes in place only where there is one. */
typedef struct {
  pthread_mutex_t mutex;
  uint8_t *mask;
  int64_t size, columns;
  TF_Tensor *tensors[OUTPUTS_OF_STRUCTURE];
} Memory;

static void forget(Memory *memory) {
  for (int i = 0; i < OUTPUTS_OF_STRUCTURE; i++) {
    if (memory->tensors[i]) TF_DeleteTensor(memory->tensors[i]);
    memory->tensors[i] = NULL;
  }
  free(memory->mask);
  memory->mask = NULL;
}

static int find_structure(Call *call, Memory *memory, const uint8_t *mask, int64_t rows, int64_t columns) {
  int64_t size = rows * columns;
  if (memory->mask && memory->size == size && memory->columns == columns && !memcmp(memory->mask, mask, size)) return 1;
  forget(memory);
  int64_t count = count_mask(mask, size);
  int64_t lengths[OUTPUTS_OF_STRUCTURE] = {count, rows + 1, count, columns + 1, count, count};
  int32_t *data[OUTPUTS_OF_STRUCTURE];
  memory->mask = malloc(size + 1);
  int enough = memory->mask != NULL;
  for (int i = 0; i < OUTPUTS_OF_STRUCTURE && enough; i++) {
    memory->tensors[i] = TF_AllocateTensor(TF_INT32, &lengths[i], 1, lengths[i] * sizeof(int32_t));
    enough = memory->tensors[i] != NULL;
    if (enough) data[i] = TF_TensorData(memory->tensors[i]);
  }
  if (!enough) {
    forget(memory);
    return fail(call, TF_RESOURCE_EXHAUSTED, "There is not enough memory for the structure of a mask.");
  }
  fill_structure(mask, rows, columns, data[0], data[1], data[2], data[3], data[4], data[5]);
  memcpy(memory->mask, mask, size);
  memory->size = size;
  memory->columns = columns;
  return 1;
}

static void compute_structure(void *kernel, TF_OpKernelContext *context) {
  Call call;
  Memory *memory = kernel;
  if (!begin(&call, context, 1)) return end(&call);
  const TF_Tensor *mask = call.inputs[0];
  int rank = TF_NumDims(mask);
  int64_t rows = 1, columns = rank ? TF_Dim(mask, rank - 1) : 0;
  for (int i = 0; i < rank - 1; i++) rows *= TF_Dim(mask, i);
  if (rank < 1 || rows * columns > INT32_MAX || rows >= INT32_MAX || columns >= INT32_MAX) {
    refuse(&call, "A mask has at least one axis and at most 2147483647 weights.");
    return end(&call);
  }
  pthread_mutex_lock(&memory->mutex);
  if (find_structure(&call, memory, TF_TensorData(mask), rows, columns))
    for (int i = 0; i < OUTPUTS_OF_STRUCTURE && TF_GetCode(call.status) == TF_OK; i++)
      TF_SetOutput(context, i, memory->tensors[i], call.status);
  pthread_mutex_unlock(&memory->mutex);
  end(&call);
}

static void *create_memory(TF_OpKernelConstruction *context) {
  (void)context;
  Memory *memory = calloc(1, sizeof *memory);
  if (memory) pthread_mutex_init(&memory->mutex, NULL);
  return memory;
}

static void delete_memory(void *kernel) {
  Memory *memory = kernel;
  if (!memory) return;
  forget(memory);
  pthread_mutex_destroy(&memory->mutex);
  free(memory);
}

static void *create_product(TF_OpKernelConstruction *context) {
  (void)context;
  Product *product = calloc(1, sizeof *product);
  if (product) product->cache = make_cache();
  return product;
}

static void delete_product(void *kernel) {
  Product *product = kernel;
  if (product) delete_cache(product->cache);
  free(product);
}

static void *create_convolution(TF_OpKernelConstruction *context) {
  TF_Status *status = TF_NewStatus();
  Product *p = create_product(context);
  const char *names[3] = {"kernel_size", "strides", "dilations"};
  int64_t *pairs[3] = {p->kernel, p->stride, p->dilation};
  for (int i = 0; i < 3 && TF_GetCode(status) == TF_OK; i++)
    TF_OpKernelConstruction_GetAttrInt64List(context, names[i], pairs[i], 2, status);
  if (TF_GetCode(status) == TF_OK) TF_OpKernelConstruction_GetAttrBool(context, "same", &p->is_same, status);
  int is_sound = 1;
  for (int i = 0; i < 3; i++)
    for (int axis = 0; axis < 2; axis++) is_sound &= pairs[i][axis] > 0 && pairs[i][axis] < 1 << 15;
  if (TF_GetCode(status) == TF_OK && !is_sound)
    TF_SetStatus(status, TF_INVALID_ARGUMENT, "kernel_size, strides and dilations must be from 1 to 32767.");
  if (TF_GetCode(status) != TF_OK) TF_OpKernelConstruction_Failure(context, status);
  TF_DeleteStatus(status);
  return p;
}

static void register_product(const char *name, const char *first, const char *second, int is_conv, int is_sized,
                             void (*compute)(void *, TF_OpKernelContext *)) {
  static const char *const structure[STRUCTURE_TENSORS] = {"row_pointers: int32", "row_outputs: int32",
                                                           "column_pointers: int32"};
  TF_Status *status = TF_NewStatus();
  TF_OpDefinitionBuilder *builder = TF_NewOpDefinitionBuilder(name);
  TF_OpDefinitionBuilderAddAttr(builder, "T: {float, double}");
  TF_OpDefinitionBuilderAddInput(builder, first);
  TF_OpDefinitionBuilderAddInput(builder, second);
  for (int i = 0; i < STRUCTURE_TENSORS; i++) TF_OpDefinitionBuilderAddInput(builder, structure[i]);
  if (is_sized) TF_OpDefinitionBuilderAddInput(builder, "input_size: int32");
  if (is_conv) {
    TF_OpDefinitionBuilderAddAttr(builder, "kernel_size: list(int) = [1, 1]");
    TF_OpDefinitionBuilderAddAttr(builder, "strides: list(int) = [1, 1]");
    TF_OpDefinitionBuilderAddAttr(builder, "dilations: list(int) = [1, 1]");
    TF_OpDefinitionBuilderAddAttr(builder, "same: bool = false");
  }
  TF_OpDefinitionBuilderAddOutput(builder, "result: T");
  TF_OpDefinitionBuilderSetShapeInferenceFunction(builder, leave_unknown);
  TF_RegisterOpDefinition(builder, status);
  TF_DeleteStatus(status);
  for (int type = TF_FLOAT; type <= TF_DOUBLE; type++)
    register_kernel(name, type, is_conv ? create_convolution : create_product, compute, delete_product);
}

static void register_structure(void) {
  static const char *const outputs[OUTPUTS_OF_STRUCTURE] = {"index: int32",          "row_pointers: int32",
                                                            "row_outputs: int32",    "column_pointers: int32",
                                                            "column_rows: int32",    "column_values: int32"};
  TF_Status *status = TF_NewStatus();
  TF_OpDefinitionBuilder *builder = TF_NewOpDefinitionBuilder("SparseLibStructure");
  TF_OpDefinitionBuilderAddInput(builder, "mask: bool");
  for (int i = 0; i < OUTPUTS_OF_STRUCTURE; i++) TF_OpDefinitionBuilderAddOutput(builder, outputs[i]);
  TF_OpDefinitionBuilderSetShapeInferenceFunction(builder, leave_unknown);
  TF_RegisterOpDefinition(builder, status);
  TF_DeleteStatus(status);
  register_kernel("SparseLibStructure", 0, create_memory, compute_structure, delete_memory);
}

__attribute__((constructor)) static void register_operations(void) {
  register_structure();
  register_product("SparseLibMatmul", "x: T", "values: T", 0, 0, compute_matmul);
  register_product("SparseLibMatmulTransposed", "dy: T", "values: T", 0, 0, compute_matmul_transposed);
  register_product("SparseLibMatmulValues", "x: T", "dy: T", 0, 0, compute_matmul_values);
  register_product("SparseLibConv", "x: T", "values: T", 1, 0, compute_conv);
  register_product("SparseLibConvTransposed", "dy: T", "values: T", 1, 1, compute_conv_transposed);
  register_product("SparseLibConvValues", "x: T", "dy: T", 1, 0, compute_conv_values);
}
