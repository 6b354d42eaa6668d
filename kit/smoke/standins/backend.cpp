// A device that is not there: torch's PrivateUse1 backend with its memory on the CPU, for kit's stand-in packages.
//
// Built by build.py with torch's own cpp_extension; nothing in here knows the device's name. Every operator that torch
// dispatches to the device comes to one boxed function (`fallback`): it lends the device's tensors to the CPU kernel as
// CPU tensors over the same memory, and takes the results back. What a device refuses is refused there: tensors on two
// devices, another device's generator, dtypes that the package names. The device has its own random streams and its own
// memory counts. Collectives go to a CPU process group in the same way. It shows where data is and what is called, and
// nothing about a real device's rounding, speed or memory.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/GeneratorForPrivateuseone.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/csrc/Dtype.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>
#include <torch/version.h>

#include <pthread.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>

namespace {

using at::Tensor;
using c10::DeviceIndex;
using c10::IValue;
using c10::Storage;
using Stack = torch::jit::Stack;

constexpr auto kNew = c10::DeviceType::PrivateUse1;
constexpr int kMost = 16; // devices at most

// ------------------------------------------------------------------------------------------- devices and their memory

int device_count = 1;
bool keeps_parameters = true; // `.to(device)` changes a Parameter in place; else it is replaced
bool own_streams = true; // the device has random streams; else it draws from the CPU's
thread_local DeviceIndex current = 0;
std::atomic<bool> used{false}, forked{false}; // the device was used; this process is a child forked since
std::array<std::atomic<int64_t>, kMost> allocated{}, peak{};

c10::Device device_at(DeviceIndex index) {
  return {kNew, index < 0 ? current : index};
}

// What a device's DataPtr owns: CPU memory, held as a storage or as a plain pointer.
struct Held {
  Storage storage;
  at::DataPtr plain;
  int64_t bytes;
  DeviceIndex index;
};

at::DataPtr own(void* data, Held* held) {
  used = true;
  auto now = allocated[held->index] += held->bytes;
  auto& most = peak[held->index];
  for (auto seen = most.load(); seen < now && !most.compare_exchange_weak(seen, now);) {
  }
  auto release = [](void* context) {
    auto* held = static_cast<Held*>(context);
    allocated[held->index] -= held->bytes;
    delete held;
  };
  return {data, held, release, c10::Device(kNew, held->index)};
}

at::DataPtr take(const Storage& cpu, DeviceIndex index) {
  auto* data = const_cast<void*>(cpu.data());
  return own(data, new Held{cpu, {}, static_cast<int64_t>(cpu.nbytes()), index});
}

#if TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR < 3
#define KIT_BEFORE_2_3
#define KIT_CONST const
#define KIT_HOOK
#else
#define KIT_CONST
#define KIT_HOOK const
#endif

struct DeviceAllocator final : c10::Allocator {
  at::DataPtr allocate(size_t bytes) KIT_CONST override {
    auto plain = c10::GetCPUAllocator()->allocate(bytes);
    auto* data = plain.get();
    return own(data, new Held{{}, std::move(plain), static_cast<int64_t>(bytes), current});
  }
  void copy_data(void* to, const void* from, size_t bytes) const {
    std::memcpy(to, from, bytes);
  }
} device_allocator;
REGISTER_ALLOCATOR(kNew, &device_allocator);

// Pinned host memory is CPU memory whose addresses are remembered.
std::mutex pinned_lock;
std::map<uintptr_t, size_t> pinned;

struct PinnedAllocator final : c10::Allocator {
  at::DataPtr allocate(size_t bytes) KIT_CONST override {
    void* data = std::malloc(std::max<size_t>(bytes, 1));
    TORCH_CHECK(data, "out of host memory: ", bytes, " bytes of pinned memory");
    std::lock_guard<std::mutex> lock(pinned_lock);
    pinned[reinterpret_cast<uintptr_t>(data)] = std::max<size_t>(bytes, 1);
    auto release = [](void* data) {
      std::lock_guard<std::mutex> lock(pinned_lock);
      pinned.erase(reinterpret_cast<uintptr_t>(data));
      std::free(data);
    };
    return {data, data, release, c10::Device(c10::kCPU)};
  }
  void copy_data(void* to, const void* from, size_t bytes) const {
    std::memcpy(to, from, bytes);
  }
} pinned_allocator;

bool is_pinned(const void* data) {
  std::lock_guard<std::mutex> lock(pinned_lock);
  auto after = pinned.upper_bound(reinterpret_cast<uintptr_t>(data));
  if (after == pinned.begin()) {
    return false;
  }
  auto& [start, bytes] = *std::prev(after);
  return reinterpret_cast<uintptr_t>(data) < start + bytes;
}

// One stream a device, on which everything is done as soon as it is asked for.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override {
    return kNew;
  }
  c10::Device exchangeDevice(c10::Device device) const override {
    auto before = getDevice();
    setDevice(device);
    return before;
  }
  c10::Device getDevice() const override {
    return {kNew, current};
  }
  void setDevice(c10::Device device) const override {
    TORCH_CHECK(device.type() == kNew, "not a device of this backend: ", device);
    TORCH_CHECK(device.index() < device_count, "invalid device ordinal: ", device, " of ", device_count);
    uncheckedSetDevice(device);
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    current = device.index() < 0 ? current : device.index();
  }
  c10::Stream getStream(c10::Device device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, device_at(device.index()));
  }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return getStream(device);
  }
  c10::Stream getNewStream(c10::Device device, int = 0) const {
    return getStream(device);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool = false) const override {
    return getStream(device);
  }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override {
    return getStream(stream.device());
  }
  DeviceIndex deviceCount() const noexcept override {
    return static_cast<DeviceIndex>(device_count);
  }
  void record(void**, const c10::Stream&, const DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override {
    return true;
  }
  void destroyEvent(void*, const DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override {
    return true;
  }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeEvent(void*) const {}
  void synchronizeDevice(const DeviceIndex) const {}
  double elapsedTime(void*, void*, const DeviceIndex) const {
    return 0;
  }
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

// ------------------------------------------------------------------------------------------------------ random streams

// The device's generator: a CPU generator of its own, so that the CPU's stream stays where it is.
struct Generator final : c10::GeneratorImpl {
  explicit Generator(DeviceIndex index, uint64_t seed = c10::detail::getNonDeterministicRandom())
      : GeneratorImpl(device_at(index), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)),
        cpu(at::detail::createCPUGenerator(seed)) {}
  void set_current_seed(uint64_t seed) override {
    cpu.set_current_seed(seed);
  }
  uint64_t current_seed() const override {
    return cpu.current_seed();
  }
  uint64_t seed() override {
    return cpu.seed();
  }
  void set_offset(uint64_t) {}
  uint64_t get_offset() const {
    return 0;
  }
  void set_state(const c10::TensorImpl& state) override {
    auto borrowed = c10::intrusive_ptr<c10::TensorImpl>::reclaim_copy(const_cast<c10::TensorImpl*>(&state));
    cpu.set_state(Tensor(std::move(borrowed)));
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return cpu.get_state().getIntrusivePtr();
  }
  Generator* clone_impl() const override {
    auto* copy = new Generator(device().index());
    copy->cpu = cpu.clone();
    return copy;
  }
  at::Generator cpu;
};

at::Generator new_generator(DeviceIndex index) {
  return at::make_generator<Generator>(index, c10::default_rng_seed_val);
}

const at::Generator& default_generator(DeviceIndex index) {
  static std::array<at::Generator, kMost> all;
  static std::once_flag once;
  std::call_once(once, [] {
    for (int i = 0; i < kMost; i++) {
      all[i] = at::make_generator<Generator>(static_cast<DeviceIndex>(i));
    }
  });
  return all.at(device_at(index).index());
}

// The CPU generator that a draw on the device is made with.
at::Generator cpu_side(const at::Generator& generator) {
  return own_streams ? static_cast<Generator*>(generator.unsafeGetGeneratorImpl())->cpu
                     : at::detail::getDefaultCPUGenerator();
}

// ---------------------------------------------------------------------------------------------------------- operators

// What the package that uses this backend says that its device does not do (see `refuse` below).
std::set<c10::ScalarType> refused;
std::set<std::string> refused_except;
std::string as_named;

std::string base_name(const c10::OperatorHandle& op) {
  auto name = op.schema().name();
  name = name.substr(name.find("::") + 2);
  auto end = name.find_last_not_of('_');
  return end == std::string::npos ? name : name.substr(0, end + 1);
}

// One loan: tensors of a device as CPU tensors over the same memory, and back.
class Loan {
 public:
  c10::optional<c10::Device> device; // the device of this call, known once a tensor or an argument of it was seen

  Tensor lend(const Tensor& tensor) {
    if (!tensor.defined() || tensor.device().type() != kNew) {
      if (tensor.defined()) {
        kept_.insert(tensor.unsafeGetTensorImpl());
        if (tensor.has_storage()) {
          kept_storages_.insert(tensor.storage().unsafeGetStorageImpl());
        }
      }
      return tensor;
    }
    for (auto& pair : pairs_) {
      if (pair.first.is_same(tensor)) {
        return pair.second;
      }
    }
    auto alias = at::detail::make_tensor<c10::TensorImpl>(
        lend(tensor.storage()), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
    reshape(alias, tensor);
    if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) {
      alias.unsafeGetTensorImpl()->set_wrapped_number(true);
    }
    pairs_.emplace_back(tensor, alias);
    return alias;
  }

  Storage lend(const Storage& storage) {
    if (storage.device_type() != kNew) {
      return storage;
    }
    for (auto& [alias, origin] : origins_) {
      if (origin.is_alias_of(storage)) {
        return Storage(c10::intrusive_ptr<c10::StorageImpl>::reclaim_copy(alias));
      }
    }
    auto release = [](void* context) { delete static_cast<Storage*>(context); };
    auto* data = const_cast<void*>(storage.data());
    Storage alias(
        Storage::use_byte_size_t(),
        storage.nbytes(),
        at::DataPtr(data, new Storage(storage), release, c10::Device(c10::kCPU)),
        c10::GetCPUAllocator(),
        /*resizable=*/true);
    remember(alias, storage);
    return alias;
  }

  // A result of the CPU kernel: the tensor that was lent, a view of its memory, or new memory of the device.
  Tensor take_back(const Tensor& result) {
    if (!result.defined() || kept_.count(result.unsafeGetTensorImpl())) {
      return result;
    }
    for (auto& pair : pairs_) {
      if (pair.second.is_same(result)) {
        return pair.first;
      }
    }
    TORCH_CHECK(result.layout() == c10::kStrided, as_named, " has no ", result.layout(), " tensors");
    if (kept_storages_.count(result.storage().unsafeGetStorageImpl())) {
      return result;
    }
    auto tensor = at::detail::make_tensor<c10::TensorImpl>(
        take_back(result.storage()), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), result.dtype());
    reshape(tensor, result);
    return tensor;
  }

  // What the kernel resized or set to other memory is so on the device as well.
  void settle() {
    for (auto& [tensor, alias] : pairs_) {
      auto storage = take_back(alias.storage());
      if (!storage.is_alias_of(tensor.storage())) {
        tensor.unsafeGetTensorImpl()->set_storage_keep_dtype(storage);
      }
      reshape(tensor, alias);
    }
    for (auto& [alias, origin] : origins_) {
      Storage cpu(c10::intrusive_ptr<c10::StorageImpl>::reclaim_copy(alias));
      if (cpu.data() != origin.data() || cpu.nbytes() != origin.nbytes()) {
        auto* impl = origin.unsafeGetStorageImpl();
        impl->set_data_ptr_noswap(take(cpu, origin.device().index()));
        impl->set_nbytes(cpu.nbytes());
      }
    }
  }

  const std::vector<std::pair<Tensor, Tensor>>& pairs() const {
    return pairs_;
  }

 private:
  static void reshape(const Tensor& to, const Tensor& like) {
    auto* impl = to.unsafeGetTensorImpl();
    if (to.sizes() != like.sizes() || to.strides() != like.strides() || to.storage_offset() != like.storage_offset()) {
      impl->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
    }
    if (to.is_conj() != like.is_conj()) {
      to._set_conj(like.is_conj());
    }
    if (to.is_neg() != like.is_neg()) {
      to._set_neg(like.is_neg());
    }
  }

  Storage take_back(const Storage& cpu) {
    auto found = origins_.find(cpu.unsafeGetStorageImpl());
    if (found != origins_.end()) {
      return found->second;
    }
    Storage storage(
        Storage::use_byte_size_t(),
        cpu.nbytes(),
        take(cpu, device_at(device ? device->index() : -1).index()),
        &device_allocator,
        /*resizable=*/true);
    remember(cpu, storage);
    return storage;
  }

  void remember(const Storage& cpu, const Storage& storage) {
    origins_.emplace(cpu.unsafeGetStorageImpl(), storage);
    alive_.push_back(cpu);
  }

  std::vector<std::pair<Tensor, Tensor>> pairs_; // of the device, its CPU alias
  std::unordered_map<c10::StorageImpl*, Storage> origins_; // CPU storage to the device's
  std::vector<Storage> alive_; // keeps the keys of origins_ from being used again
  std::set<c10::TensorImpl*> kept_; // CPU arguments, which stay what they are
  std::set<c10::StorageImpl*> kept_storages_;
};

// Whether an operator takes a CPU scalar beside a device's tensors, as devices do for pointwise operators. Of these, torch
// tags some overload of most.
bool takes_scalars(const std::string& name) {
  static const std::set<std::string> untagged = {
      "copy", "fill", "floor_divide", "index_fill", "index_put", "_index_put_impl", "masked_fill", "rsub"};
  auto tagged = [&](const char* overload) {
    auto op = c10::Dispatcher::singleton().findOp({"aten::" + name, overload});
    return op && op->hasTag(at::Tag::pointwise);
  };
  return untagged.count(name) || name.rfind("_foreach_", 0) == 0 || name.rfind("_fused_", 0) == 0 || tagged("Tensor") ||
      tagged("self") || tagged("");
}

class Arguments {
 public:
  Arguments(const c10::OperatorHandle& op, Loan& loan) : op_(op), loan_(loan), name_(base_name(op)) {}

  // The device that the call is on: that of its tensors or, in a factory, of its device argument.
  void look(const IValue& value, const c10::Argument& argument) {
    each_tensor(value, [&](const Tensor& tensor) {
      if (tensor.defined() && tensor.device().type() == kNew) {
        TORCH_CHECK(!loan_.device || *loan_.device == tensor.device(), mixed(tensor.device(), argument));
        loan_.device = loan_.device.value_or(tensor.device());
        check_dtype(tensor);
      }
    });
    if (value.isStorage() && value.toStorage().device_type() == kNew) {
      loan_.device = loan_.device.value_or(value.toStorage().device());
    }
    if (value.isDevice() && value.toDevice().type() == kNew) {
      TORCH_CHECK(value.toDevice().index() < device_count, "invalid device ordinal: ", value.toDevice());
      loan_.device = loan_.device.value_or(device_at(value.toDevice().index()));
    }
  }

  IValue lend(const IValue& value, const c10::Argument& argument) {
    bool indices = value.isList() && argument.name() == "indices";
    each_tensor(value, [&](const Tensor& tensor) {
      if (!tensor.defined() || tensor.device().type() == kNew || indices) {
        return;
      }
      bool written = argument.alias_info() && argument.alias_info()->isWrite();
      bool number = tensor.unsafeGetTensorImpl()->is_wrapped_number(); // a Python number
      bool scalar = tensor.is_cpu() && tensor.dim() == 0 && !written && (number || takes_scalars(name_));
      TORCH_CHECK(scalar, mixed(tensor.device(), argument));
    });
    if (value.isTensor()) {
      return loan_.lend(value.toTensor());
    }
    if (value.isTensorList()) {
      c10::List<Tensor> list;
      each_tensor(value, [&](const Tensor& tensor) { list.push_back(loan_.lend(tensor)); });
      return list;
    }
    if (value.isOptionalTensorList()) {
      c10::List<c10::optional<Tensor>> list;
      for (c10::optional<Tensor> tensor : value.toOptionalTensorList()) {
        list.push_back(tensor ? c10::optional<Tensor>(loan_.lend(*tensor)) : c10::nullopt);
      }
      return list;
    }
    if (value.isStorage()) {
      return loan_.lend(value.toStorage());
    }
    if (value.isDevice()) {
      return c10::Device(c10::kCPU);
    }
    if (value.isGenerator()) {
      auto generator = value.toGenerator();
      TORCH_CHECK(
          generator.device().type() == kNew,
          "Expected a '", as_named, "' device type for generator but found '", generator.device().type(), "'");
      return cpu_side(generator);
    }
    if (value.isNone() && argument.name() == "generator") {
      return cpu_side(default_generator(loan_.device ? loan_.device->index() : -1));
    }
    return value;
  }

  void check_dtype(const Tensor& tensor) const {
    TORCH_CHECK(
        !refused.count(tensor.scalar_type()) || refused_except.count(name_),
        op_.schema().name(), " is not implemented for ", tensor.scalar_type(), " on ", as_named);
  }

  IValue take_back(const IValue& value) {
    if (value.isTensor()) {
      auto tensor = loan_.take_back(value.toTensor());
      if (tensor.defined() && tensor.device().type() == kNew) {
        check_dtype(tensor);
      }
      return tensor;
    }
    if (value.isTensorList()) {
      c10::List<Tensor> list;
      each_tensor(value, [&](const Tensor& tensor) { list.push_back(loan_.take_back(tensor)); });
      return list;
    }
    return value;
  }

  template <typename Do>
  static void each_tensor(const IValue& value, Do&& act) {
    if (value.isTensor()) {
      act(value.toTensor());
    } else if (value.isTensorList()) {
      for (const auto& tensor : value.toTensorVector()) {
        act(tensor);
      }
    } else if (value.isOptionalTensorList()) {
      for (c10::optional<Tensor> tensor : value.toOptionalTensorList()) {
        if (tensor) {
          act(*tensor);
        }
      }
    }
  }

 private:
  std::string mixed(c10::Device other, const c10::Argument& argument) const {
    return c10::str(
        "Expected all tensors to be on the same device, but found at least two devices, ",
        loan_.device.value_or(device_at(-1)), " and ", other, "! (argument ", argument.name(), " of ",
        op_.schema().name(), ")");
  }

  const c10::OperatorHandle& op_;
  Loan& loan_;
  std::string name_;
};

// Calls the CPU kernel. One that lacks a 16-bit dtype is called in float32, and what it made is rounded; which do is
// remembered: the error that says so takes longer than the work.
void call_cpu(const c10::OperatorHandle& op, Stack& stack) {
  auto arguments = stack;
  auto narrow = c10::kFloat;
  for (auto& value : arguments) {
    Arguments::each_tensor(value, [&](const Tensor& tensor) {
      if (tensor.defined() && (tensor.scalar_type() == c10::kHalf || tensor.scalar_type() == c10::kBFloat16)) {
        narrow = tensor.scalar_type();
      }
    });
  }
  static std::mutex mutex;
  static std::set<std::pair<std::string, c10::ScalarType>> lacking;
  auto key = std::make_pair(c10::toString(op.operator_name()), narrow);
  auto known = [&] {
    std::lock_guard<std::mutex> guard(mutex);
    return lacking.count(key) > 0;
  };
  if (narrow == c10::kFloat || !known()) {
    try {
      op.callBoxed(stack);
      return;
    } catch (const c10::Error& error) {
      std::string what = error.what_without_backtrace();
      bool lacks = what.find("not implemented for") != std::string::npos;
      if (narrow == c10::kFloat || !lacks ||
          (what.find("Half") == std::string::npos && what.find("BFloat16") == std::string::npos)) {
        throw;
      }
    }
    std::lock_guard<std::mutex> guard(mutex);
    lacking.insert(key);
  }
  std::vector<std::pair<Tensor, Tensor>> widened;
  auto widen = [&](const Tensor& tensor) {
    if (!tensor.defined() || (tensor.scalar_type() != c10::kHalf && tensor.scalar_type() != c10::kBFloat16)) {
      return tensor;
    }
    for (auto& pair : widened) {
      if (pair.first.is_same(tensor)) {
        return pair.second;
      }
    }
    widened.emplace_back(tensor, tensor.to(c10::kFloat));
    return widened.back().second;
  };
  stack.clear();
  for (auto& value : arguments) {
    if (value.isTensor()) {
      stack.emplace_back(widen(value.toTensor()));
    } else if (value.isTensorList()) {
      c10::List<Tensor> list;
      Arguments::each_tensor(value, [&](const Tensor& tensor) { list.push_back(widen(tensor)); });
      stack.emplace_back(list);
    } else {
      stack.push_back(value);
    }
  }
  const auto& schema = op.schema().arguments();
  for (size_t i = 0; i < stack.size(); i++) { // a dtype among the arguments (softmax's backward) is widened too
    bool dtype = schema[i].real_type()->kind() == c10::TypeKind::ScalarTypeType;
    if (dtype && stack[i].isInt() && stack[i].toScalarType() == narrow) {
      stack[i] = c10::kFloat;
    }
  }
  op.callBoxed(stack);
  for (size_t i = 0; i < arguments.size(); i++) {
    if (schema[i].alias_info() && schema[i].alias_info()->isWrite()) {
      Arguments::each_tensor(arguments[i], [&](const Tensor& tensor) {
        for (auto& pair : widened) {
          if (pair.first.is_same(tensor)) {
            pair.first.resize_(pair.second.sizes()).copy_(pair.second);
          }
        }
      });
    }
  }
  for (auto& value : stack) {
    if (value.isTensor()) {
      auto result = value.toTensor();
      auto same = std::find_if(widened.begin(), widened.end(), [&](auto& pair) { return pair.second.is_same(result); });
      if (same != widened.end()) {
        value = same->first;
      } else if (result.defined() && result.scalar_type() == c10::kFloat) {
        value = result.to(narrow);
      }
    }
  }
}

void run(const c10::OperatorHandle& op, Stack* stack) {
  Loan loan;
  Arguments arguments(op, loan);
  TORCH_CHECK(
      !forked, "Cannot re-initialize ", as_named, " in forked subprocess. To use ", as_named,
      " with multiprocessing, you must use the 'spawn' start method");
  const auto& schema = op.schema().arguments();
  auto given = torch::jit::last(*stack, schema.size()).vec();
  for (size_t i = 0; i < given.size(); i++) {
    arguments.look(given[i], schema[i]);
  }
  Stack lent;
  bool generator = false;
  for (size_t i = 0; i < given.size(); i++) {
    generator = generator || schema[i].name() == "generator";
    lent.push_back(arguments.lend(given[i], schema[i]));
  }
  {
    at::AutoDispatchBelowADInplaceOrView below;
    c10::impl::ExcludeDispatchKeyGuard plain(at::autocast_dispatch_keyset);
    if (own_streams && op.hasTag(at::Tag::nondeterministic_seeded) && !generator) {
      // the kernel draws from the CPU's stream: give it the device's meanwhile
      auto cpu = at::detail::getDefaultCPUGenerator();
      auto ours = cpu_side(default_generator(loan.device ? loan.device->index() : -1));
      auto before = cpu.get_state();
      cpu.set_state(ours.get_state());
      call_cpu(op, lent);
      ours.set_state(cpu.get_state());
      cpu.set_state(before);
    } else {
      call_cpu(op, lent);
    }
  }
  loan.settle();
  torch::jit::drop(*stack, given.size());
  for (auto& value : lent) {
    stack->push_back(arguments.take_back(value));
  }
}

void fallback(const c10::OperatorHandle& op, Stack* stack) {
  run(op, stack);
}

// Copies between any two devices; what was lent is the same memory.
Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  c10::impl::ExcludeDispatchKeyGuard plain(at::autocast_dispatch_keyset);
  Loan loan;
  auto lent = loan.lend(to);
  lent.copy_(loan.lend(from));
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

// torch gives convolutions of a device it does not know to these two operators, which have no CPU kernel.
c10::OperatorHandle named(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
}

void convolution(const c10::OperatorHandle&, Stack* stack) {
  run(named("aten::convolution"), stack);
}

void convolution_backward(const c10::OperatorHandle& op, Stack* stack) {
  constexpr size_t weight = 2, transposed = 6, groups = 8; // of its ten arguments
  auto given = torch::jit::last(*stack, op.schema().arguments().size());
  auto shape = given[weight].toTensor().sizes();
  auto out = given[transposed].toBool() ? shape[1] * given[groups].toInt() : shape[0];
  stack->insert(stack->end() - 7, IValue(c10::List<int64_t>({out}))); // bias_sizes follows weight
  run(named("aten::convolution_backward"), stack);
}

// Whether `.to(device)` and `.data =` can change a Parameter in place. torch says no for two kinds of device; packages of
// devices may say yes.
bool has_compatible_shallow_copy_type(const Tensor& self, const Tensor& from) {
  return keeps_parameters || self.unsafeGetTensorImpl()->has_compatible_shallow_copy_type(from.key_set());
}

void record_stream(Tensor&, c10::Stream) {}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("convolution_overrideable", torch::CppFunction::makeFromBoxedFunction<&convolution>());
  m.impl("convolution_backward_overrideable", torch::CppFunction::makeFromBoxedFunction<&convolution_backward>());
  // torch's own, for a device without one, is made of views, which channels-last input (2.7 leaves it so) does not have
  m.impl("native_group_norm", torch::CppFunction::makeFromBoxedFunction<&fallback>());
  m.impl("_has_compatible_shallow_copy_type", &has_compatible_shallow_copy_type);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("record_stream", &record_stream);
}

// The copy itself conjugates and negates: torch would do it before, by way of a copy.
TORCH_LIBRARY_IMPL(aten, Conjugate, m) {
  m.impl("_copy_from", torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(aten, Negative, m) {
  m.impl("_copy_from", torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(_, AutogradPrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFallthrough()); // operators without a derivative: c10d's
}

TORCH_LIBRARY_IMPL(aten, AutogradPrivateUse1, m) {
  m.impl("_has_compatible_shallow_copy_type", &has_compatible_shallow_copy_type);
}

#ifdef KIT_BEFORE_2_3 // what torch has for every device since
REGISTER_GENERATOR_PRIVATEUSE1(new_generator)

void non_finite_check_and_unscale(at::TensorList grads, Tensor& found_inf, const Tensor& inv_scale) {
  for (Tensor grad : grads) {
    if (!grad.isfinite().all().item<bool>()) {
      found_inf.fill_(1);
    }
    grad.mul_(inv_scale);
  }
}

Tensor& update_scale(
    Tensor& scale, Tensor& tracker, const Tensor& found_inf, double growth, double backoff, int64_t interval) {
  if (found_inf.item<float>()) {
    scale.mul_(backoff);
    tracker.zero_();
  } else if (tracker.add_(1).item<int>() == interval) {
    auto grown = scale * growth;
    if (std::isfinite(grown.item<float>())) {
      scale.copy_(grown);
    }
    tracker.zero_();
  }
  return scale;
}

bool is_pinned_tensor(const Tensor& tensor, c10::optional<c10::Device>) {
  return tensor.is_cpu() && is_pinned(tensor.storage().data());
}

Tensor pin(const Tensor& tensor, c10::optional<c10::Device>) {
  TORCH_CHECK(tensor.is_cpu(), "cannot pin '", tensor.toString(), "' only dense CPU tensors can be pinned");
  auto bytes = at::detail::computeStorageNbytes(tensor.sizes(), tensor.strides(), tensor.itemsize());
  Storage storage(Storage::use_byte_size_t(), bytes, &pinned_allocator, /*resizable=*/true);
  return at::empty({0}, tensor.options()).set_(storage, 0, tensor.sizes(), tensor.strides()).copy_(tensor);
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("_amp_foreach_non_finite_check_and_unscale_", &non_finite_check_and_unscale);
  m.impl("_amp_update_scale_", &update_scale);
}

// In place of torch's choice of CUDA for tensors that name no device; torch warns of it.
void register_pinning() {
  struct Quiet final : c10::WarningHandler {
    void process(const c10::Warning&) override {}
  } quiet;
  c10::WarningUtils::WarningHandlerGuard guard(&quiet);
  static torch::Library library(torch::Library::IMPL, "aten", c10::DispatchKey::BackendSelect, __FILE__, __LINE__);
  library.impl("is_pinned", &is_pinned_tensor);
  library.impl("_pin_memory", &pin);
}
#endif

// ------------------------------------------------------------------------------------------------------------ autocast

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFallthrough());
}

namespace lists {
using namespace at;

#ifndef AT_FORALL_LOWER_PRECISION_FP // torch's lists for every device came with 2.4; these are the ones 2.1 has for CUDA
#undef KERNEL_PRIVATEUSEONE
#define KIT_FOURTH(first, second, third, fourth, ...) fourth
#define KERNEL_PRIVATEUSEONE(...) KIT_FOURTH(__VA_ARGS__, KIT_KERNEL2, KIT_KERNEL)(__VA_ARGS__)
#define KIT_KERNEL(OP, POLICY) KERNEL(kNew, OP, POLICY)
#define KIT_KERNEL2(OP, OVERLOAD, POLICY) KERNEL2(kNew, OP, OVERLOAD, POLICY)
#define AT_FORALL_LOWER_PRECISION_FP(_) \
  _(_convolution, deprecated) _(_convolution) _(conv1d) _(conv2d) _(conv3d) _(conv_tbc) _(conv_transpose1d) \
  _(conv_transpose2d, input) _(conv_transpose3d, input) _(convolution) _(prelu) _(addmm) _(addmv) _(addr) \
  _(matmul) _(einsum) _(mm) _(mv) _(linear) _(addbmm) _(baddbmm) _(bmm) _(chain_matmul) _(linalg_multi_dot) \
  _(_thnn_fused_lstm_cell) _(_thnn_fused_gru_cell) _(lstm_cell) _(gru_cell) _(rnn_tanh_cell) _(rnn_relu_cell) \
  _(_scaled_dot_product_flash_attention) _(scaled_dot_product_attention)
#define AT_FORALL_FP32(_) \
  _(acos) _(asin) _(cosh) _(erfinv) _(exp) _(expm1) _(log) _(log10) _(log2) _(log1p) _(reciprocal) _(rsqrt) \
  _(sinh) _(tan) _(pow, Tensor_Scalar) _(pow, Tensor_Tensor) _(pow, Scalar) _(softplus) _(layer_norm) \
  _(native_layer_norm) _(group_norm) _(frobenius_norm, dim) _(nuclear_norm) _(nuclear_norm, dim) \
  _(cosine_similarity) _(poisson_nll_loss) _(cosine_embedding_loss) _(nll_loss) _(nll_loss2d) \
  _(hinge_embedding_loss) _(kl_div) _(l1_loss) _(smooth_l1_loss) _(huber_loss) _(mse_loss) _(margin_ranking_loss) \
  _(multilabel_margin_loss) _(soft_margin_loss) _(triplet_margin_loss) _(multi_margin_loss) \
  _(binary_cross_entropy_with_logits) _(dist) _(pdist) _(cdist) _(renorm) _(logsumexp)
#define AT_FORALL_FP32_SET_OPT_DTYPE(_) \
  _(prod) _(prod, dim_int) _(prod, dim_Dimname) _(softmax, int) _(softmax, Dimname) _(log_softmax, int) \
  _(log_softmax, Dimname) _(cumprod) _(cumprod, dimname) _(cumsum) _(cumsum, dimname) _(linalg_vector_norm) \
  _(linalg_matrix_norm) _(linalg_matrix_norm, str_ord) _(sum) _(sum, dim_IntList) _(sum, dim_DimnameList)
#define AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE(_) \
  _(at::norm, "norm.Scalar", Tensor(const Tensor&, const Scalar&), \
    Tensor(const Tensor&, const c10::optional<Scalar>&, ScalarType), fp32_append_dtype) \
  _(at::norm, "norm.ScalarOpt_dim", Tensor(const Tensor&, const c10::optional<Scalar>&, IntArrayRef, bool), \
    Tensor(const Tensor&, const c10::optional<Scalar>&, IntArrayRef, bool, ScalarType), fp32_append_dtype) \
  _(at::norm, "norm.names_ScalarOpt_dim", Tensor(const Tensor&, const c10::optional<Scalar>&, DimnameList, bool), \
    Tensor(const Tensor&, const c10::optional<Scalar>&, DimnameList, bool, ScalarType), fp32_append_dtype)
#define AT_FORALL_PROMOTE(_) \
  _(addcdiv) _(addcmul) _(atan2) _(bilinear) _(cross) _(dot) _(grid_sampler) _(index_put) _(tensordot) \
  _(scatter_add)
#endif

TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
#define KIT_LOW(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define KIT_FP32(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
#define KIT_SET(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32_set_opt_dtype)
#define KIT_PROMOTE(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, promote)
  AT_FORALL_LOWER_PRECISION_FP(KIT_LOW)
  AT_FORALL_FP32(KIT_FP32)
  AT_FORALL_FP32_SET_OPT_DTYPE(KIT_SET)
  AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE(KERNEL_DIFFERENT_REDISPATCH_SIGNATURE_PRIVATEUSEONE)
  AT_FORALL_PROMOTE(KIT_PROMOTE)
}
} // namespace lists

// --------------------------------------------------------------------------------------------------------------- hooks

struct Hooks final : at::PrivateUse1HooksInterface {
  void init() const {}
  bool isBuilt() const {
    return true;
  }
  bool isAvailable() const {
    return device_count > 0;
  }
  bool hasPrimaryContext(DeviceIndex) const {
    return true;
  }
  DeviceIndex deviceCount() const {
    return static_cast<DeviceIndex>(device_count);
  }
  void setCurrentDevice(DeviceIndex index) const {
    Guard().setDevice({kNew, index});
  }
  DeviceIndex getCurrentDevice() const {
    return current;
  }
  DeviceIndex exchangeDevice(DeviceIndex index) const {
    return Guard().exchangeDevice({kNew, index}).index();
  }
  DeviceIndex maybeExchangeDevice(DeviceIndex index) const {
    return index < 0 ? current : exchangeDevice(index);
  }
  bool isPinnedPtr(const void* data) const {
    return is_pinned(data);
  }
  c10::Allocator* getPinnedMemoryAllocator() const {
    return &pinned_allocator;
  }
  c10::Device getDeviceFromPtr(void*) const override {
    return device_at(-1);
  }
  const at::Generator& getDefaultGenerator(DeviceIndex index) KIT_HOOK override {
    return default_generator(index);
  }
  at::Generator getNewGenerator(DeviceIndex index = -1) const {
    return new_generator(index);
  }
  void resizePrivateUse1Bytes(const Storage& storage, size_t bytes) const {
    auto index = storage.device().index();
    auto fresh = c10::GetCPUAllocator()->allocate(bytes);
    auto* data = fresh.get();
    if (data && storage.data()) {
      std::memcpy(data, storage.data(), std::min<size_t>(bytes, storage.nbytes()));
    }
    auto* impl = storage.unsafeGetStorageImpl();
    impl->set_data_ptr_noswap(own(data, new Held{{}, std::move(fresh), static_cast<int64_t>(bytes), index}));
    impl->set_nbytes(bytes);
  }
};

// --------------------------------------------------------------------------------------------------------- collectives

using c10d::Work;
using WorkPtr = c10::intrusive_ptr<Work>;
using Tensors = std::vector<Tensor>;
using TensorLists = std::vector<Tensors>;

// The work of the CPU process group, with results on the device.
struct DeviceWork final : Work {
  DeviceWork(WorkPtr work, Tensors results, std::function<void()> finish = {})
      : Work(-1, c10d::OpType::UNKNOWN), work(std::move(work)), results(std::move(results)), finish(std::move(finish)) {}
  bool isCompleted() override {
    return work->isCompleted();
  }
  bool isSuccess() const override {
    return work->isSuccess();
  }
  std::exception_ptr exception() const override {
    return work->exception();
  }
  int sourceRank() const override {
    return work->sourceRank();
  }
  Tensors result() override {
    return results;
  }
  void synchronize() override {
    wait();
  }
  bool wait(std::chrono::milliseconds timeout = kNoTimeout) override {
    bool done = work->wait(timeout);
    end();
    return done;
  }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override {
    auto future = c10::make_intrusive<c10::ivalue::Future>(c10::ListType::ofTensors());
    auto self = c10::intrusive_ptr<DeviceWork>::unsafe_reclaim_from_nonowning(this);
    work->getFuture()->addCallback([future, self](c10::ivalue::Future& done) {
      if (done.hasError()) {
        future->setError(done.exception_ptr());
        return;
      }
      self->end();
      future->markCompleted(IValue(c10::List<Tensor>(self->results)));
    });
    return future;
  }
  void end() {
    std::call_once(ended, [this] {
      if (finish) {
        finish();
      }
    });
  }
  WorkPtr work;
  Tensors results;
  std::function<void()> finish;
  std::once_flag ended;
};

// A process group's backend for the device's tensors over one for the CPU's (gloo): it lends them the same memory.
struct Collectives final : c10d::Backend {
  Collectives(c10::intrusive_ptr<c10d::Backend> cpu, std::string name)
      : Backend(cpu->getRank(), cpu->getSize()), cpu_(std::move(cpu)), name_(std::move(name)) {}

  const std::string getBackendName() const override {
    return name_;
  }
  WorkPtr broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) override {
    auto lent = lend(tensors);
    return done(cpu_->broadcast(lent, options), tensors);
  }
  WorkPtr allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) override {
    return reduced(tensors, [&](Tensors& lent) { return cpu_->allreduce(lent, options); });
  }
  WorkPtr allreduce_coalesced(Tensors& tensors, const c10d::AllreduceCoalescedOptions& options) override {
    return reduced(tensors, [&](Tensors& lent) { return cpu_->allreduce_coalesced(lent, options); });
  }
  WorkPtr reduce(Tensors& tensors, const c10d::ReduceOptions& options) override {
    return reduced(tensors, [&](Tensors& lent) { return cpu_->reduce(lent, options); });
  }
  WorkPtr allgather(TensorLists& outputs, Tensors& inputs, const c10d::AllgatherOptions& options) override {
    auto lent_outputs = lend(outputs);
    auto lent = lend(inputs);
    return done(cpu_->allgather(lent_outputs, lent, options), flat(outputs));
  }
  WorkPtr _allgather_base(Tensor& output, Tensor& input, const c10d::AllgatherOptions& options) override {
    TensorLists outputs{rows(lend(output))};
    auto lent = Tensors{lend(input).reshape(-1)};
    return done(cpu_->allgather(outputs, lent, options), {output});
  }
  WorkPtr allgather_into_tensor_coalesced(
      Tensors& outputs, Tensors& inputs, const c10d::AllgatherOptions& options) override {
    return in_turn(outputs, inputs, [&](Tensor& to, Tensor& from) { return _allgather_base(to, from, options); });
  }
  WorkPtr gather(TensorLists& outputs, Tensors& inputs, const c10d::GatherOptions& options) override {
    auto lent_outputs = lend(outputs);
    auto lent = lend(inputs);
    return done(cpu_->gather(lent_outputs, lent, options), flat(outputs));
  }
  WorkPtr scatter(Tensors& outputs, TensorLists& inputs, const c10d::ScatterOptions& options) override {
    auto lent_outputs = lend(outputs);
    auto lent = lend(inputs);
    return done(cpu_->scatter(lent_outputs, lent, options), outputs);
  }
  // gloo has no reduce_scatter: all ranks reduce everything and keep their part.
  WorkPtr reduce_scatter(Tensors& outputs, TensorLists& inputs, const c10d::ReduceScatterOptions& options) override {
    return keep_part(numbers(outputs.at(0)), at::stack(numbers(inputs.at(0))), outputs, options);
  }
  WorkPtr _reduce_scatter_base(Tensor& output, Tensor& input, const c10d::ReduceScatterOptions& options) override {
    return keep_part(numbers(output), at::stack(rows(numbers(input))), {output}, options);
  }
  WorkPtr reduce_scatter_tensor_coalesced(
      Tensors& outputs, Tensors& inputs, const c10d::ReduceScatterOptions& options) override {
    return in_turn(outputs, inputs, [&](Tensor& to, Tensor& from) { return _reduce_scatter_base(to, from, options); });
  }
  WorkPtr alltoall_base(
      Tensor& output, Tensor& input, std::vector<int64_t>& to, std::vector<int64_t>& from,
      const c10d::AllToAllOptions& options) override {
    auto lent_output = lend(output);
    auto lent = lend(input);
    return done(cpu_->alltoall_base(lent_output, lent, to, from, options), {output});
  }
  WorkPtr send(Tensors& tensors, int rank, int tag) override {
    auto lent = lend(tensors);
    return done(cpu_->send(lent, rank, tag), tensors);
  }
  WorkPtr recv(Tensors& tensors, int rank, int tag) override {
    auto lent = lend(tensors);
    return done(cpu_->recv(lent, rank, tag), tensors);
  }
  WorkPtr recvAnysource(Tensors& tensors, int tag) override {
    auto lent = lend(tensors);
    return done(cpu_->recvAnysource(lent, tag), tensors);
  }
  WorkPtr barrier(const c10d::BarrierOptions& options) override {
    auto cpu_options = options;
    cpu_options.device_ids.clear();
    cpu_options.device = c10::nullopt;
    return done(cpu_->barrier(cpu_options), {});
  }
  void setSequenceNumberForGroup() override {
    cpu_->setSequenceNumberForGroup();
  }
  uint64_t getSequenceNumberForGroup() override {
    return cpu_->getSequenceNumberForGroup();
  }

 private:
  // What is reduced is lent as numbers, what is only moved as bits: there are dtypes that gloo does not know.
  Tensor numbers(const Tensor& tensor) const {
    TORCH_CHECK(
        tensor.device().type() == kNew, "No backend type associated with device type ", tensor.device().type(), ": ",
        name_, " takes tensors on ", as_named);
    return Loan().lend(tensor);
  }
  Tensors numbers(const Tensors& tensors) const {
    return each(tensors, [&](auto& one) { return numbers(one); });
  }
  Tensor lend(const Tensor& tensor) const {
    static const std::map<size_t, c10::ScalarType> of_size = {
        {1, c10::kByte}, {2, c10::kHalf}, {4, c10::kInt}, {8, c10::kLong}};
    return numbers(tensor).view(of_size.at(tensor.element_size()));
  }
  Tensors lend(const Tensors& tensors) const {
    return each(tensors, [&](auto& one) { return lend(one); });
  }
  TensorLists lend(const TensorLists& lists) const {
    return each(lists, [&](auto& one) { return lend(one); });
  }
  template <typename T, typename Do>
  static std::vector<T> each(const std::vector<T>& all, Do&& act) {
    std::vector<T> results;
    std::transform(all.begin(), all.end(), std::back_inserter(results), act);
    return results;
  }
  static Tensors flat(const TensorLists& lists) {
    Tensors all;
    for (auto& list : lists) {
      all.insert(all.end(), list.begin(), list.end());
    }
    return all;
  }
  Tensors rows(const Tensor& tensor) const {
    return tensor.view({getSize(), -1}).unbind(0);
  }
  static WorkPtr done(WorkPtr work, Tensors results) {
    return c10::make_intrusive<DeviceWork>(std::move(work), std::move(results));
  }
  // gloo sums bfloat16 only in newer versions of torch.
  static Tensor summable(const Tensor& tensor) {
    return tensor.scalar_type() == c10::kBFloat16 ? tensor.to(c10::kFloat) : tensor;
  }
  template <typename Do>
  WorkPtr reduced(const Tensors& tensors, Do&& act) {
    auto lent = numbers(tensors);
    auto summed = each(lent, summable);
    auto finish = [lent, summed] {
      for (size_t i = 0; i < lent.size(); i++) {
        if (!lent[i].is_same(summed[i])) {
          lent[i].copy_(summed[i]);
        }
      }
    };
    return c10::make_intrusive<DeviceWork>(act(summed), tensors, finish);
  }
  WorkPtr keep_part(Tensor to, Tensor stacked, Tensors results, const c10d::ReduceScatterOptions& options) {
    c10d::AllreduceOptions reduce;
    reduce.reduceOp = options.reduceOp;
    reduce.timeout = options.timeout;
    auto all = summable(stacked);
    Tensors one{all};
    auto finish = [to, part = all[getRank()]] { to.copy_(part.view(to.sizes())); };
    return c10::make_intrusive<DeviceWork>(cpu_->allreduce(one, reduce), std::move(results), finish);
  }
  template <typename Do>
  WorkPtr in_turn(Tensors& outputs, Tensors& inputs, Do&& act) {
    WorkPtr last;
    for (size_t i = 0; i < outputs.size(); i++) {
      last = act(outputs[i], inputs.at(i));
      last->wait();
    }
    return last;
  }

  c10::intrusive_ptr<c10d::Backend> cpu_;
  std::string name_;
};

} // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("start", [](const std::string& name, int devices, bool keeps, bool streams) {
    TORCH_CHECK(devices >= 0 && devices <= kMost, "0 to ", kMost, " devices, not ", devices);
    as_named = name;
    device_count = devices;
    keeps_parameters = keeps;
    own_streams = streams;
    pthread_atfork(nullptr, nullptr, [] { forked = forked || used; });
#ifdef KIT_BEFORE_2_3
    register_pinning();
#endif
    static Hooks hooks;
    at::RegisterPrivateUse1HooksInterface(&hooks);
  }, "Register the backend's hooks: the device's name, as in torch.device, how many of them there are, whether `.to()` "
     "keeps Parameters, and whether the device has random streams of its own.");
  m.def("refuse", [](std::vector<py::object> dtypes, std::set<std::string> except) {
    refused.clear();
    for (auto& dtype : dtypes) {
      refused.insert(reinterpret_cast<THPDtype*>(dtype.ptr())->scalar_type);
    }
    refused_except = std::move(except);
  }, "Let every operator fail on these dtypes, but for the operators named (without trailing underscores).");
  m.def("in_bad_fork", [] { return forked.load(); });
  m.def("device_count", [] { return device_count; });
  m.def("current_device", [] { return static_cast<int>(current); });
  m.def("set_device", [](int index) { Guard().setDevice({kNew, static_cast<DeviceIndex>(index)}); });
  m.def("default_generator", [](int index) { return default_generator(static_cast<DeviceIndex>(index)); });
  m.def("memory", [](int index) {
    return std::make_pair(allocated.at(index).load(), peak.at(index).load());
  }, "Bytes allocated now and at most, on a device.");
  m.def("is_autocast_enabled", &at::autocast::is_privateuseone_enabled);
  m.def("set_autocast_enabled", &at::autocast::set_privateuseone_enabled);
  m.def("get_autocast_dtype", [] {
    return py::reinterpret_borrow<py::object>(
        reinterpret_cast<PyObject*>(torch::getTHPDtype(at::autocast::get_autocast_privateuseone_dtype())));
  });
  m.def("set_autocast_dtype", [](py::object dtype) {
    TORCH_CHECK_TYPE(THPDtype_Check(dtype.ptr()), "dtype must be a torch.dtype");
    at::autocast::set_autocast_privateuseone_dtype(reinterpret_cast<THPDtype*>(dtype.ptr())->scalar_type);
  });
  m.def("reset_peak", [](int index) { peak.at(index) = allocated.at(index).load(); });
  py::module_::import("torch.distributed");
  py::class_<Collectives, c10d::Backend, c10::intrusive_ptr<Collectives>>(m, "Collectives")
      .def(py::init([](c10::intrusive_ptr<c10d::Backend> cpu, const std::string& name) {
        return c10::make_intrusive<Collectives>(std::move(cpu), name);
      }));
}
